"""One continuation of each prompt: its tokens drawn one by one, or always the likeliest (greedy)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from seqlab.models.hypothesis import Hypothesis, normalised, require_probable


@dataclass(eq=False)
class Continuation:
    """A continuation of one prompt while it is written, with its own settings.

    It draws from a generator of its own, so that what is written does not depend on its company.

    limit                       the most tokens to write
    seed                        of its draws; None: greedy
    temperature, top_k, top_p   see `sample`
    length_penalty              of its score, see `normalised`
    """

    limit: int
    seed: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    length_penalty: float = 1.0
    tokens: list[int] = field(default_factory=list, init=False)
    log_probability: float = field(default=0.0, init=False)
    finished: bool = field(default=False, init=False)

    @cached_property
    def draws(self) -> list[float]:
        """A number in [0, 1) for each token."""
        assert self.seed is not None, "greedy search draws nothing"
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.limit, dtype=torch.float64, generator=generator).tolist()

    def take(self, token: int, log_probability: float, end: int) -> bool:
        """Append a token, or end with the end mark. Return whether the continuation goes on."""
        self.log_probability += log_probability
        self.finished = token == end
        if not self.finished:
            self.tokens.append(token)
        return not self.finished and len(self.tokens) < self.limit

    def hypothesis(self) -> Hypothesis:
        """Return what is written."""
        log_probability = torch.tensor(self.log_probability, dtype=torch.float64)
        length = torch.tensor(len(self.tokens) + self.finished)
        score = normalised(log_probability, length, self.length_penalty).item()
        return Hypothesis(torch.tensor(self.tokens, dtype=torch.int64), score, self.finished)


C = TypeVar("C", bound=Continuation)


class Sampling(Generic[C]):
    """Greedy decoding and sampling. Rows of the batch are continuations, which leave as they end.

    Args:
        end: the token that ends a sequence.
        prompts: continuations that `join` knows by their number. Others may be appended to `rows` between two steps.
        fail: called with the continuations that leave because no token has a probability; by default, raise
            `NonFiniteError`.
    """

    def __init__(
        self,
        end: int,
        prompts: Sequence[C] = (),
        fail: Callable[[list[C]], object] = lambda rows: require_probable(not rows),
    ) -> None:
        self.end = end
        self.prompts = prompts
        self.fail = fail
        self.rows: list[C] = []

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, prompts: Tensor) -> None:
        """Append these prompts behind the rows that run."""
        self.rows += [self.prompts[prompt] for prompt in prompts.tolist()]

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that go on, and the token [B'] that each goes on by, both on the CPU."""
        norms_B = scores_BV.logsumexp(1)
        if not bool(norms_B.isfinite().all()):
            return self._advance_without(~norms_B.isfinite(), scores_BV)
        tokens_B = self._choose(scores_BV)
        log_p_B = scores_BV.gather(1, tokens_B.unsqueeze(1)).squeeze(1) - norms_B
        tokens_B = tokens_B.cpu()
        taken = zip(self.rows, tokens_B.tolist(), log_p_B.tolist(), strict=True)
        going = [i for i, (row, token, log_p) in enumerate(taken) if row.take(token, log_p, self.end)]
        self.rows = [self.rows[i] for i in going]
        rows = torch.tensor(going, dtype=torch.int64)
        return rows, tokens_B[rows]

    def results(self) -> list[list[Hypothesis]]:
        """Return one hypothesis for each of `prompts`."""
        return [[prompt.hypothesis()] for prompt in self.prompts]

    def _choose(self, scores_BV: Tensor) -> Tensor:
        """Return the next token [B] of each row. Rows with equal settings are sampled together."""
        groups: dict[tuple[float, int | None, float | None], list[int]] = defaultdict(list)
        for i, row in enumerate(self.rows):
            if row.seed is not None:
                groups[row.temperature, row.top_k, row.top_p].append(i)
        tokens_B = scores_BV.argmax(1)
        for settings, group in groups.items():
            draws = torch.tensor([self.rows[i].draws[len(self.rows[i].tokens)] for i in group], dtype=torch.float64)
            at = slice(None) if len(group) == len(self.rows) else torch.tensor(group, device=scores_BV.device)
            tokens_B[at] = sample(scores_BV[at], draws.to(scores_BV.device), *settings)
        return tokens_B

    def _advance_without(self, improbable_B: Tensor, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Let the rows leave whose scores are no numbers, and advance the others."""
        improbable = improbable_B.tolist()
        self.fail([row for row, leaves in zip(self.rows, improbable, strict=True) if leaves])
        self.rows = [row for row, leaves in zip(self.rows, improbable, strict=True) if not leaves]
        others = (~improbable_B).nonzero().flatten()
        rows, tokens_B = self.advance(scores_BV[others])
        return others.cpu()[rows], tokens_B


def sample(
    scores_BV: Tensor, draws_B: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """[B] tokens from softmax(scores / temperature), by inverting its cumulative sum at uniform draws in [0, 1).

    Args:
        scores_BV: before the softmax.
        draws_B: [B] float64; the same draws choose the same tokens.
        temperature: divides the scores.
        top_k: only the so many likeliest tokens (Fan et al. 2018, section 5.3).
        top_p: only the nucleus, the fewest likeliest tokens of which the probability adds up to this (Holtzman et al.
            2020, section 3.1); of what `top_k` leaves.
    """
    scores_BC, tokens_BC = scores_BV, None
    if top_k is not None or top_p is not None:
        scores_BC, tokens_BC = scores_BV.topk(min(top_k or scores_BV.shape[1], scores_BV.shape[1]))
    p_BC = (scores_BC.double() / temperature).softmax(1)
    if top_p is not None and top_p < 1:
        p_BC = p_BC.masked_fill(p_BC.cumsum(1) - p_BC >= top_p, 0)
    cumulative_BC = p_BC.cumsum(1)
    total_B1 = cumulative_BC[:, -1:]
    drawn_B1 = torch.searchsorted(cumulative_BC, draws_B.unsqueeze(1) * total_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BC, total_B1.contiguous())  # that can be drawn; behind it by rounding only
    drawn_B1 = torch.minimum(drawn_B1, last_B1)
    return (drawn_B1 if tokens_BC is None else tokens_BC.gather(1, drawn_B1)).squeeze(1)
