"""What decoding writes, and how good it is by the model's own measure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seqlab.errors import NonFiniteError


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One continuation of a prompt.

    tokens    [L] int64, on the CPU, without the end mark
    score     log-probability of the tokens, and of the end mark where it was written, in nats, by the model as it is
              (no temperature, nothing filtered); divided by a power of the length, see `normalised`
    finished  whether it ended by the end mark; otherwise it was cut at the most tokens allowed
    """

    tokens: Tensor
    score: float
    finished: bool


def require_probable(there_is_one: bool) -> None:
    """Whether every row has a token with a probability.

    Raises:
        NonFiniteError: one has none.
    """
    if not there_is_one:
        raise NonFiniteError("no token has a probability: the model's scores are not numbers; look at its weights")


def normalised(log_probability: Tensor, length: Tensor, penalty: float) -> Tensor:
    """log P / length^penalty, where the end mark counts as a token.

    A penalty of 0 compares probabilities, which favours the short; 1 compares means per token. Of the usual formulas
    (Wu et al. 2016, section 7, has ((5 + length) / 6)^penalty) this one has no constant but the exponent.
    """
    return log_probability / length.to(log_probability) ** penalty
