"""Figures of a model over many batches, each weighted by its own counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seqlab.data.batch import Batch
from seqlab.tasks.task import Task
from seqlab.training.averages import Averages
from seqlab.training.objective import pieces


def evaluate(
    task: Task, batches: Iterable[Batch], device: torch.device | str = "cpu", micro_tokens: int | None = None
) -> dict[str, float]:
    """`task.metrics` over all batches: sums and counts are added up and divided once.

    The model is in evaluation mode meanwhile and returned to the mode it was in. The random state is left as it was:
    evaluating more or less often does not change what is trained.
    """
    device = torch.device(device)
    averages = Averages()
    was_training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for batch in batches:
                for micro in pieces(batch, micro_tokens):
                    averages.add_terms(task.step(micro.to(device)))
    finally:
        task.model.train(was_training)
    return task.metrics(averages.read())
