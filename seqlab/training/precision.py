"""The number format in which products are computed. Parameters, their gradients and the optimizer stay in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding
from seqlab.tasks.task import StepOutput, Task

Precision = Literal["float32", "bfloat16"]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Autocast(Task):
    """A task whose steps multiply in a narrower format, in training and in evaluation alike. All else is the task's.

    What is summed over many numbers (norms, softmax, losses) and the state of a recurrence stay in float32.
    """

    def __init__(self, task: Task, dtype: torch.dtype) -> None:
        self.task, self.dtype = task, dtype
        self.model, self.monitor, self.decoding = task.model, task.monitor, task.decoding
        self.metrics_by_name = task.metrics_by_name

    def step(self, batch: Batch) -> StepOutput:
        with torch.autocast(batch.tokens.device.type, self.dtype):
            return self.task.step(batch)

    def counts(self, batch: Batch) -> dict[str, int]:
        return self.task.counts(batch)

    def flops(self, batch: Batch) -> float:
        return self.task.flops(batch)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> Sequence[Any]:
        return self.task.predict(batch, decoding, seed)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        return self.task.metrics(averages, tallies)

    def higher_is_better(self, figure: str) -> bool:
        return self.task.higher_is_better(figure)

    @property
    def carried_state(self) -> dict[str, Tensor]:
        return self.task.carried_state

    @property
    def decoding_settings(self) -> dict[str, Any]:
        return self.task.decoding_settings

    @property
    def max_length(self) -> int | None:
        return self.task.max_length

    @property
    def max_words(self) -> int | None:
        return self.task.max_words

    @property
    def description(self) -> str:
        return self.task.description


def in_precision(task: Task, precision: Precision) -> Task:
    """The task, computed in that format."""
    return task if precision == "float32" else Autocast(task, DTYPES[precision])
