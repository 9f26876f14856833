"""What a task tells the trainer: sums, and the counts to divide them by.

Sequences differ in length, so a mean of means lies. A task never divides; the trainer does, once, by the count over
the whole global batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from seqlab.data.batch import Batch


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
    """The terms of one (micro-)batch by name. Training minimises the sum over terms of weight * sum / count."""

    terms: dict[str, Term]


class Task(Protocol):
    """A model and how it is trained and judged."""

    model: nn.Module
    monitor: str  # the metric that decides which checkpoint is best; lower is better

    def counts(self, batch: Batch) -> dict[str, int]:
        """The count of every term, known before any forward pass."""
        ...

    def step(self, batch: Batch) -> StepOutput:
        """Forward pass and terms; `counts` of the output equal `counts(batch)`."""
        ...

    def flops(self, batch: Batch) -> float:
        """Useful FLOPs of training on the batch, forward and backward, as `SequenceLayer.flops` counts them."""
        ...

    def metrics(self, averages: dict[str, float]) -> dict[str, float]:
        """What people read, from the averages of all terms: the averages themselves and figures derived from them."""
        ...
