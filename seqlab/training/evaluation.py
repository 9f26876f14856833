"""Figures of a model over many batches, each weighted by its own counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.layers.native import heap
from seqlab.tasks.task import StepOutput, Task
from seqlab.training.averages import Averages
from seqlab.training.objective import pieces


@dataclass
class _Sums:
    """What steps have added up to."""

    averages: Averages = field(default_factory=Averages)
    tallies: dict[str, Tensor] = field(default_factory=dict)

    def add(self, output: StepOutput) -> None:
        self.averages.add_terms(output)
        for name, tally in output.tallies.items():
            self.tallies[name] = self.tallies[name] + tally if name in self.tallies else tally

    def metrics(self, task: Task) -> dict[str, float]:
        return task.metrics(self.averages.read(), self.tallies)


def evaluate(
    task: Task, batches: Iterable[Batch], device: torch.device | str = "cpu", micro_tokens: int | None = None
) -> dict[str, Any]:
    """`task.metrics` over all batches: sums and counts are added up and divided once.

    "by_length" holds the same metrics for the examples of each range of lengths, such as "0016-0031".

    The model is in evaluation mode meanwhile and returned to the mode it was in. The random state is left as it was:
    evaluating more or less often does not change what is trained.
    """
    device = torch.device(device)
    whole = _Sums()
    ranges: defaultdict[str, _Sums] = defaultdict(_Sums)
    was_training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for batch in batches:
                for micro in pieces(batch, micro_tokens):
                    for name, part in by_length(micro):
                        output = task.step(part.to(device))
                        whole.add(output)
                        ranges[name].add(output)
                heap.trim()
    finally:
        task.model.train(was_training)
    shortest_first = sorted(ranges, key=lambda name: int(name.partition("-")[0]))  # "16384-32767" behind "8192-16383"
    return {**whole.metrics(task), "by_length": {name: ranges[name].metrics(task) for name in shortest_first}}


def by_length(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """The examples of a batch by their number of tokens, in ranges that double: 0, 1, 2 to 3, 4 to 7, ..."""
    doublings = (batch.tokens.lengths + 0.5).log2().floor().long()
    for doubling in doublings.unique().tolist():
        chosen = (doublings == doubling).nonzero().flatten()
        name = "0000" if doubling < 0 else f"{2**doubling:04}-{2 ** (doubling + 1) - 1:04}"
        yield name, batch if len(chosen) == len(batch) else batch.select(chosen)
