"""Where training stands: everything that a checkpoint keeps besides tensors."""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from seqlab.data.batch import Batch
from seqlab.data.loader import Position
from seqlab.errors import InputError, did_you_mean
from seqlab.training.averages import Averages
from seqlab.training.throughput import padded_cells, peak_rss_bytes


@dataclass
class State:
    """The position and the sums that a run continues from.

    The position is that of the global batch that comes next. Neither the number of micro-batches nor that of processes
    enters it. The sums of the running log interval are kept too, so that a resumed
    run writes the same log lines.
    """

    step: int = 0  # optimizer steps taken
    position: Position = field(default_factory=Position)
    tokens: int = 0  # real tokens and sequences trained on
    sequences: int = 0
    cells: int = 0  # places that padded batches would have taken
    seconds: float = 0.0  # wall time inside `fit`, all starts together
    step_seconds: float = 0.0  # of which in steps, waiting for their data included
    useful_flops: float = 0.0  # of these steps
    possible_flops: float = 0.0  # at the measured rate of the best product, in the same seconds
    lr: float = 0.0  # of the last step, first group
    evaluated: int = 0  # the step of the last evaluation
    metrics: dict[str, Any] = field(default_factory=dict)  # its figures
    best: float | None = None  # value of the task's monitor
    best_step: int = 0
    best_metrics: dict[str, Any] = field(default_factory=dict)
    stale: int = 0  # evaluations since the best
    terms: Averages = field(default_factory=Averages)  # the task's terms in the running log interval
    figures: Averages = field(default_factory=Averages)  # the trainer's own figures in it

    def advance(self, batch: Batch, follows: Position) -> None:
        """Record a step on a global batch, and the position that follows it."""
        self.step += 1
        self.position = follows
        cells = sum(map(padded_cells, batch.layouts))
        self.tokens += batch.num_tokens
        self.sequences += len(batch)
        self.cells += cells
        self.figures.add("batch_tokens", batch.num_tokens, 1)
        self.figures.add("batch_seqs", len(batch), 1)
        self.figures.add("padding_fraction", cells - batch.num_tokens, cells)

    def worked(self, flops: float, seconds: float, gemm_peak: float) -> None:
        """Takes note of a step's useful FLOPs and time, and of the FLOP/s that the machine could do."""
        self.step_seconds += seconds
        self.useful_flops += flops
        self.possible_flops += seconds * gemm_peak

    def record_evaluation(self, metrics: dict[str, Any], monitor: str, higher_is_better: bool) -> bool:
        """Record an evaluation at this step. Return whether its `monitor` is the best so far, which nan never is.

        Raises:
            InputError: the evaluation has no figure of that name.
        """
        self.evaluated, self.metrics = self.step, metrics
        if monitor not in metrics:
            known = [name for name, value in metrics.items() if isinstance(value, float)]
            raise InputError(
                f"task.monitor={monitor} is none of the metrics{did_you_mean(monitor, known)}: {', '.join(known)}"
            )
        value = metrics[monitor]
        better = operator.gt if higher_is_better else operator.lt
        improved = math.isfinite(value) and (self.best is None or better(value, self.best))
        if improved:
            self.best, self.best_step, self.best_metrics, self.stale = value, self.step, metrics, 0
        else:
            self.stale += 1
        return improved

    @property
    def is_best(self) -> bool:
        """The evaluation at this step is the best so far."""
        return self.best is not None and self.best_step == self.step

    def summary(self) -> dict[str, Any]:
        """The figures that `summary.json` keeps of training."""
        return {
            "steps": self.step,
            "epochs": self.position.epochs,
            "tokens": self.tokens,
            "sequences": self.sequences,
            "best_step": self.best_step,
            "validation_best": self.best_metrics,
            "validation_final": self.metrics,
            "tokens_per_s": self.tokens / self.step_seconds if self.step_seconds else 0.0,
            "useful_flops_utilization": self.useful_flops / self.possible_flops if self.possible_flops else 0.0,
            "padding_fraction": 1 - self.tokens / self.cells if self.cells else 0.0,
            "wall_s": self.seconds,
            "peak_rss_mb": peak_rss_bytes() / 1e6,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, exact: Python writes floats so that they read back to the same bits."""
        self.terms.settle()
        self.figures.settle()
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        """Return the state that `to_json` stored. Raise `ValueError` if its fields are not those of this version."""
        if set(stored) != (known := {field.name for field in fields(cls)}):
            raise ValueError(f"its state has the fields {sorted(stored)}, expected {sorted(known)}")
        averages = {name: Averages(**stored[name]) for name in ("terms", "figures")}
        return cls(**{**stored, "position": Position(**stored["position"]), **averages})
