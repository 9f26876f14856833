"""What a task tells the trainer: sums, and the counts to divide them by.

Sequences differ in length, so a mean of means lies. A task never divides; the trainer does, once, by the count over
the whole global batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding

ROWS_AT_ONCE = 256  # hypotheses that are continued together: bounds what states take, and changes nothing else


@dataclass(frozen=True)
class Term:
    """One summand of the objective, or, with weight 0, a figure that is only logged.

    sum     scalar tensor, summed over the batch
    count   what it is averaged over: predicted tokens, bytes, sequences
    weight  its factor in the objective
    """

    sum: Tensor
    count: int
    weight: float


@dataclass(frozen=True)
class StepOutput:
    """What one (micro-)batch adds.

    terms    by name; training minimises the sum over terms of weight * sum / count
    tallies  by name, while judging only: tensors that add up over batches, and from which metrics are read once that
             are no averages, such as F1 from counts or BLEU from matching n-grams
    """

    terms: dict[str, Term]
    tallies: dict[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """A model and how it is trained and judged.

    One that carries something from a training batch to the next, besides the weights, has it in `carried`, a
    dict[str, Tensor] that is filled in place: a checkpoint keeps it. No other needs to have that.
    """

    model: nn.Module
    monitor: str  # the metric that decides which checkpoint is best

    def counts(self, batch: Batch) -> dict[str, int]:
        """The count of every term, known before any forward pass."""
        ...

    def step(self, batch: Batch) -> StepOutput:
        """Forward pass and terms; `counts` of the output equal `counts(batch)`."""
        ...

    def flops(self, batch: Batch) -> float:
        """Useful FLOPs of training on the batch, forward and backward, as `SequenceLayer.flops` counts them."""
        ...

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """What people read, from the averages of all terms and the sums of all tallies.

        While training there are no tallies: only figures from averages are told then.
        """
        ...

    def answer(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> Sequence[Any]:
        """What the model says to each example, for people who use it; the model is in evaluation mode.

        Args:
            batch: whose targets do not matter.
            decoding: how to write, for a task that writes; None: as the task does by itself.
            seed: of what is drawn for each example, together with its id.
        """
        ...


def terms_of(
    loss: Tensor, costs: Mapping[str, Tensor], weights: Mapping[str, float], counts: Mapping[str, int]
) -> dict[str, Term]:
    """The loss, and what the model itself adds, its `costs` by name with their weights, over what `counts` has."""
    terms = {"loss": Term(loss, counts["loss"], 1.0)}
    return {**terms, **{name: Term(cost, counts[name], weights[name]) for name, cost in costs.items()}}


def perplexity(nats: float) -> float:
    """exp of the nats per token, which stays a number where these have gone astray."""
    return math.exp(min(nats, 700.0))


def seeds_of(batch: Batch, seed: int) -> list[int]:
    """One for each example, by its number."""
    return [seed + 1_000_003 * number for number in batch.ids.tolist()]
