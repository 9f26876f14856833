"""Averages that carry their own count: sums and counts are added up, and divided once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqlab.tasks.task import StepOutput


def is_on_host(total: Tensor) -> bool:
    return total.device.type == "cpu"


@dataclass
class Averages:
    """Sums and counts by name. Adding never waits for a device; reading does, once.

    A tensor of a device waits in `pending` until somebody reads. Then it joins the sum in float64, in the order in
    which it came: the result does not depend on when, or how often, one reads. One of the host joins at once: were it
    kept, a scalar would lie in the middle of what a large product has left free, and the next such product would not
    fit in (judging a word-level model took some 100 MB more each time). A count of 0 adds nothing.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pending: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def add(self, name: str, total: Tensor | float, count: int) -> None:
        """One more sum (a scalar) and what it is a sum over."""
        self.sums.setdefault(name, 0.0)
        self.counts[name] = self.counts.get(name, 0) + count
        if count == 0:
            return
        if not isinstance(total, Tensor):
            self.sums[name] += total
        elif is_on_host(total):
            self.sums[name] += total.item()
        else:
            self.pending.setdefault(name, []).append(total.detach())

    def add_terms(self, output: StepOutput) -> None:
        """All terms of one (micro-)batch."""
        for name, term in output.terms.items():
            self.add(name, term.sum, term.count)

    def settle(self) -> None:
        """Reads what is pending."""
        for name, totals in self.pending.items():
            for value in torch.stack(totals).tolist():
                self.sums[name] += value
        self.pending.clear()

    def read(self) -> dict[str, float]:
        """The averages; nan over a count of 0."""
        self.settle()
        return {name: self.sums[name] / count if count else math.nan for name, count in self.counts.items()}

    def take(self) -> dict[str, float]:
        """The averages, and starts anew."""
        averages = self.read()
        self.sums.clear()
        self.counts.clear()
        return averages
