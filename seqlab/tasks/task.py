"""The base class of tasks, and what a task tells the trainer: sums, and the counts to divide them by.

Sequences differ in length, so a mean of means lies. A task never divides; the trainer does, once, by the count over
the whole global batch.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.errors import InputError
from seqlab.models.decoding import Decoding
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.metric import Metric

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
    """The sums of one (micro-)batch.

    terms    by name; training minimises the sum over terms of weight * sum / count
    tallies  by name, in evaluation only: what the task's metrics count, which adds up over batches
    """

    terms: dict[str, Term]
    tallies: dict[str, Tensor] = field(default_factory=dict)


class Task(ABC):
    """A model, and how it is trained, evaluated and used.

    A task of your own is a subclass that defines `counts`, `step`, `flops` and `predict`. All else has a default.

    Attributes:
        model: the model. A step reads `model.training` to tell training from evaluation.
        monitor: the figure that chooses the best checkpoint; the loss by default.
        metrics_by_name: the metrics that evaluation computes, by name. None by default.
        decoding: how the model writes. None, the default, says that it writes nothing.
        end: the token that ends what the model writes, of a task with a `decoding`.
    """

    model: nn.Module
    monitor: str = "loss"
    metrics_by_name: Mapping[str, Metric] = {}
    decoding: Decoding | None = None
    end: int
    _reporters: Mapping[str, Metric] = {}  # the metric that reported each figure

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the count of every term, known before any forward pass."""

    @abstractmethod
    def step(self, batch: Batch) -> StepOutput:
        """Compute the terms, and in evaluation the tallies. The counts of the output equal `counts(batch)`."""

    @abstractmethod
    def flops(self, batch: Batch) -> float:
        """Return the useful FLOPs of training on the batch, forward and backward, as `SequenceLayer.flops` counts."""

    @abstractmethod
    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> Sequence[Any]:
        """Return the model's prediction for each example. The model is in evaluation mode.

        Args:
            batch: its targets do not matter.
            decoding: how to write, for a task that writes; None: the task's own decoding.
            seed: seeds what is drawn for each example, together with the example's number.
        """

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Return all figures: the averages of the terms, and what the metrics read from the sums of their tallies.

        In training there are no tallies, and the figures are the averages alone.

        Raises:
            InputError: two metrics report a figure of the same name.
        """
        figures = dict(averages)
        for name, tally in tallies.items():
            metric = self.metrics_by_name[name]
            read = metric.read(tally)
            if twice := figures.keys() & read.keys():
                raise InputError(f"task.metrics: {name} reports {min(twice)}, which is reported already; drop one")
            figures |= read
            self._reporters = {**self._reporters, **dict.fromkeys(read, metric)}
        return figures

    def higher_is_better(self, figure: str) -> bool:
        """Return whether a higher value of a figure is better: the metric that has reported the figure says so.

        All other figures are averages of costs, such as the loss, of which less is better.
        """
        return figure in self._reporters and self._reporters[figure].higher_is_better(figure)

    def tally(self, predicted: Any, targets: Any) -> dict[str, Tensor]:
        """Return what each metric counts in a batch, by the metric's name."""
        return {name: metric.tally(predicted, targets) for name, metric in self.metrics_by_name.items()}

    @property
    def carried_state(self) -> dict[str, Tensor]:
        """The tensors that the task carries from one training batch to the next, besides the weights.

        A checkpoint keeps them, and fills the dict in place when a run is resumed. {} by default: none.
        """
        return {}

    @property
    def decoding_settings(self) -> dict[str, Any]:
        """The settings without which the figures compare with no others, for run.json and the output of `evaluate`.

        By default the signatures of those metrics that have one.
        """
        metrics = self.metrics_by_name.items()
        return {name: metric.signature for name, metric in metrics if metric.signature is not None}

    @property
    def max_length(self) -> int | None:
        """The most tokens of a sequence for which the model has positions. None, the default: any number."""
        return None

    @property
    def max_words(self) -> int | None:
        """The most words of a sentence for which the model has positions. None, the default: any number."""
        return None

    @property
    def description(self) -> str:
        """The kind of task in words, such as "sequence to sequence". By default the name of its class."""
        return " ".join(re.findall("[A-Z][^A-Z]*", type(self).__name__)).lower()

    def begin(self, batch: Batch) -> tuple[Ragged, Any]:
        """Return the tokens that are continued, and the model's state before them: None, or what it knows of a source.

        A task with a `decoding` defines it.
        """
        raise NotImplementedError(f"{type(self).__name__} writes nothing")


def terms_of(
    loss: Tensor, costs: Mapping[str, Tensor], weights: Mapping[str, float], counts: Mapping[str, int]
) -> dict[str, Term]:
    """Return the loss and the model's own `costs` as terms, each with its weight, divided by its entry in `counts`."""
    terms = {"loss": Term(loss, counts["loss"], 1.0)}
    return {**terms, **{name: Term(cost, counts[name], weights[name]) for name, cost in costs.items()}}


def perplexity(nats: float) -> float:
    """Return exp of the nats per token, bounded so that it stays a number where training has diverged."""
    return math.exp(min(nats, 700.0))


def seeds_of(batch: Batch, seed: int) -> list[int]:
    """Return a seed for each example, made of `seed` and the example's number."""
    return [seed + 1_000_003 * number for number in batch.ids.tolist()]
