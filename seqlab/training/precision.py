"""The number format in which products are computed. Parameters, their gradients and the optimizer stay in float32."""

from __future__ import annotations

from typing import Literal

import torch

from seqlab.data.batch import Batch
from seqlab.tasks.task import StepOutput, Task

Precision = Literal["float32", "bfloat16"]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Autocast:
    """A task whose steps multiply in a narrower format, in training and in evaluation alike; else it is that task.

    What is summed over many numbers (norms, softmax, losses) and the state of a recurrence stay in float32.
    """

    def __init__(self, task: Task, dtype: torch.dtype) -> None:
        self.task, self.dtype = task, dtype
        self.model, self.monitor, self.carried = task.model, task.monitor, getattr(task, "carried", {})
        self.conditions = getattr(task, "conditions", {})
        self.counts, self.metrics, self.flops, self.answer = task.counts, task.metrics, task.flops, task.answer

    def step(self, batch: Batch) -> StepOutput:
        with torch.autocast(batch.tokens.device.type, self.dtype):
            return self.task.step(batch)


def in_precision(task: Task, precision: Precision) -> Task:
    """The task, computed in that format."""
    return task if precision == "float32" else Autocast(task, DTYPES[precision])
