"""Tagging: a tag for every word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding
from seqlab.models.tagger import Tagger
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.classes import Confusion
from seqlab.tasks.metrics.spans import SpanScores
from seqlab.tasks.task import StepOutput, terms_of
from seqlab.text.tags import OUTSIDE, mark_spans


class Tagged(NamedTuple):
    """Of a sentence, [L] each: the ids of its tags, the probability of each, and of each given the one before it."""

    tags: Tensor
    probabilities: Tensor
    given_before: Tensor


class Tagging:
    """Nats per word, accuracy and F1 of the tags; and, where tags mark spans, precision, recall and F1 of these.

    Args:
        model: the tagger.
        label_names: of the tags, by id.
        monitor: the metric that decides which checkpoint is best; None: f1 of spans, or else accuracy.
    """

    def __init__(self, model: Tagger, label_names: tuple[str, ...], monitor: str | None = None) -> None:
        self.model = model
        self.tags = Confusion(label_names, negative=(OUTSIDE,))
        self.spans = SpanScores(label_names) if mark_spans(label_names) else None
        self.monitor = monitor or ("accuracy" if self.spans is None else "f1")

    def counts(self, batch: Batch) -> dict[str, int]:
        read = self.model.read(batch.tokens.layout, batch.extras["pieces"].layout).total
        return {"loss": batch.predicted, **dict.fromkeys(self.model.costs, read)}

    def step(self, batch: Batch) -> StepOutput:
        hidden, costs = self.hidden(batch)
        loss = self.model.head.loss(hidden.values, batch.targets.values, hidden.lengths)
        terms = terms_of(loss, costs, self.model.costs, self.counts(batch))
        if self.model.training:
            return StepOutput(terms)
        predicted_W = self.model.head.decode(hidden.values, hidden.lengths)
        tallies = {"tags": self.tags.tally(predicted_W, batch.targets.values)}
        if self.spans is not None:
            tallies["spans"] = self.spans.tally(predicted_W, batch.targets)
        return StepOutput(terms, tallies)

    def hidden(self, batch: Batch) -> tuple[Ragged, dict[str, Tensor]]:
        """A vector for each word, and the model's costs."""
        return self.model.encode(batch.tokens, batch.extras["pieces"], batch.extras.get("words"))

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.layout, batch.extras["pieces"])

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        figures = dict(averages)
        if "tags" in tallies:
            figures |= self.tags.read(tallies["tags"])
        if "spans" in tallies and self.spans is not None:
            figures |= self.spans.read(tallies["spans"])
        return figures

    def answer(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Tagged]:
        """For each sentence its tags, and how likely they are."""
        with torch.no_grad():
            hidden, _ = self.hidden(batch)
            tags_W = self.model.head.decode(hidden.values, hidden.lengths)
            likelihoods = self.model.head.likelihoods(hidden.values, hidden.lengths, tags_W)
        columns = (hidden.with_values(values.cpu()).to_list() for values in (tags_W, *likelihoods))
        return [Tagged(*row) for row in zip(*columns, strict=True)]
