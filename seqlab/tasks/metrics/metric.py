"""The base class of metrics: figures that are no averages, such as F1 from counts or BLEU from matching n-grams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from seqlab.errors import InputError, did_you_mean


class Metric(ABC):
    """A metric of a task's predictions, computed from counts that add up over batches.

    `tally` counts in one batch, and the tallies of all batches are added. `read` computes the figures from their sum.
    So the figures are those of all examples at once, however the examples were batched, and each range of lengths has
    its own. What a task passes to `tally` is documented in the class of the task.

    Attributes:
        main: the figure that chooses the best checkpoint where `task.monitor` is null. None: the metric has no such
            figure.
        signature: what else decides the figures, such as how text was split into words, for run.json and the output of
            `evaluate`. None: nothing.
        reads_ids: a metric of written text gets lists of token ids instead of strings.
        needs_whole_text: a metric of written text compares what a lossy tokenizer does not give back. It is refused for
            a target with such a tokenizer.
    """

    main: ClassVar[str | None] = None
    signature: str | None = None
    reads_ids: ClassVar[bool] = False
    needs_whole_text: bool = False

    @abstractmethod
    def tally(self, predicted: Any, targets: Any) -> Tensor:
        """Return what a batch adds to the sum: a tensor of one shape and number format for all batches."""
        ...

    @abstractmethod
    def read(self, tally: Tensor) -> dict[str, float]:
        """Return the figures by name, such as {"f1": 0.8, "f1/person": 0.9}; nan where the tallies counted nothing."""
        ...

    def higher_is_better(self, figure: str) -> bool:
        """Return whether a higher value of one of the metric's figures is better. By default it is."""
        return True


def choose_metrics(chosen: Sequence[str | Metric], known: Mapping[str, Callable[[], Metric]]) -> dict[str, Metric]:
    """Return the chosen metrics by name. A metric that is given as an object is called by its class.

    Args:
        chosen: names of metrics that the task knows, and metrics.
        known: what makes each of the metrics that the task knows.

    Raises:
        InputError: the task knows no metric of that name, or a metric is given twice.
    """
    found: dict[str, Metric] = {}
    for metric in chosen:
        name = metric if isinstance(metric, str) else type(metric).__name__
        if isinstance(metric, str) and metric not in known:
            there = f"choose {', '.join(known)}, or " if known else ""
            raise InputError(
                f"task.metrics={metric} is no metric of this task{did_you_mean(metric, known)}: {there}name a class of "
                "your own, task.metrics=[{_target_: my_module.MyMetric}]"
            )
        if name in found:
            raise InputError(f"task.metrics names {name} twice; keep one")
        found[name] = known[metric]() if isinstance(metric, str) else metric
    return found


def main_figure(metrics: Mapping[str, Metric]) -> str:
    """Return the main figure of the first metric that has one, or "loss"."""
    return next((metric.main for metric in metrics.values() if metric.main is not None), "loss")
