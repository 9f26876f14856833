"""Spans of words, such as names: found if begin, end and type are right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqlab.ragged import IGNORED, Ragged
from seqlab.tasks.metrics.metric import Metric
from seqlab.tasks.metrics.rates import by_name, rates
from seqlab.text.tags import tables


class SpanScores(Metric):
    """Precision, recall and F1 of spans, over all types and of each ("f1/person"), as conlleval computes them.

    Every run of tags is a span, also one that begins with I: so are figures published.

    Args:
        labels: the tags by id; `seqlab.text.tags` says what they may be, and how a sequence of them is read.

    Raises:
        InputError: a label says nothing about spans.
    """

    main = "f1"

    def __init__(self, labels: Sequence[str]) -> None:
        self.tables = tables(labels)
        self.types = self.tables.types

    def tally(self, predicted: Ragged, targets: Ragged) -> Tensor:
        """Return [types, 3] int64, on the CPU: spans found correctly, predicted, there.

        Args:
            predicted: [W] int64, a tag for every word of the batch.
            targets: [W] int64. A word whose target is -100 is passed over as if it were not there.
        """
        targets_W = targets.values.cpu()
        evaluated_W = targets_W != IGNORED
        sentences_W = targets.layout.segments[evaluated_W]
        given = self._spans(predicted.values.cpu()[evaluated_W], sentences_W)
        there = self._spans(targets_W[evaluated_W], sentences_W)
        types = len(self.types)
        found = given[torch.isin(given, there)], given, there
        return torch.stack([torch.bincount(spans % max(types, 1), minlength=types) for spans in found], 1)

    def _spans(self, tags_W: Tensor, sentences_W: Tensor) -> Tensor:
        """[spans] int64, one number for each: (first word * W + last word) * types + type."""
        types, type_C, continues_CC, _, _ = self.tables
        inside_W, continues_W = type_C[tags_W] >= 0, torch.zeros_like(tags_W, dtype=torch.bool)
        continues_W[1:] = continues_CC[tags_W[:-1], tags_W[1:]] & (sentences_W[:-1] == sentences_W[1:])
        # Spans do not overlap, so the first begin and the first end are of one span, the second two of the next, ...
        begins = (inside_W & ~continues_W).nonzero().squeeze(1)
        ends = (inside_W & ~continues_W.roll(-1)).nonzero().squeeze(1)
        spans: Tensor = (begins * len(tags_W) + ends) * len(types) + type_C[tags_W[begins]]
        return spans

    def read(self, tally: Tensor) -> dict[str, float]:
        overall = rates(tally.sum(0))
        return {name: rate.item() for name, rate in overall._asdict().items()} | by_name(self.types, tally)
