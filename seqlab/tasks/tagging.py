"""Tagging: a tag for every word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding
from seqlab.models.tagger import Tagger
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.classes import Confusion
from seqlab.tasks.metrics.metric import Metric, choose_metrics, main_figure
from seqlab.tasks.metrics.spans import SpanScores
from seqlab.tasks.task import StepOutput, Task, terms_of
from seqlab.text.tags import OUTSIDE, mark_spans


class Tagged(NamedTuple):
    """The tags of a sentence, [L] each: their ids, the probability of each, and that of each given the one before."""

    tags: Tensor
    probabilities: Tensor
    given_before: Tensor


class Tagging(Task):
    """Tagging: the loss is in nats per word. Where tags mark spans, precision, recall and F1 of these are computed too.

    A metric of `metrics` is passed, as `predicted` and `targets`, the tags of all words, each Ragged [W] int64, -100
    for a target that is ignored.

    Args:
        model: the tagger.
        label_names: the names of the tags, by id.
        metrics: names among "tags" and, where tags mark spans, "spans", and metrics of your own; None: all of these.
        monitor: the figure that chooses the best checkpoint; None: f1 of spans, or else that of the first metric, which
            by default is accuracy.

    Raises:
        InputError: there is no such metric.
    """

    model: Tagger

    def __init__(
        self,
        model: Tagger,
        label_names: tuple[str, ...],
        metrics: Sequence[str | Metric] | None = None,
        monitor: str | None = None,
    ) -> None:
        self.model = model
        known: dict[str, Callable[[], Metric]] = {"tags": lambda: Confusion(label_names, negative=(OUTSIDE,))}
        if mark_spans(label_names):
            known["spans"] = lambda: SpanScores(label_names)
        self.metrics_by_name = choose_metrics([*known] if metrics is None else metrics, known)
        self.monitor = monitor or ("f1" if "spans" in self.metrics_by_name else main_figure(self.metrics_by_name))

    def counts(self, batch: Batch) -> dict[str, int]:
        read = self.model.read(batch.tokens.layout, batch.extras["pieces"].layout).total
        return {"loss": batch.predicted, **dict.fromkeys(self.model.costs, read)}

    def step(self, batch: Batch) -> StepOutput:
        hidden, costs = self.hidden(batch)
        loss = self.model.head.loss(hidden.values, batch.targets.values, hidden.lengths)
        terms = terms_of(loss, costs, self.model.costs, self.counts(batch))
        if self.model.training or not self.metrics_by_name:
            return StepOutput(terms)
        predicted_W = self.model.head.decode(hidden.values, hidden.lengths)
        return StepOutput(terms, self.tally(batch.targets.with_values(predicted_W), batch.targets))

    def hidden(self, batch: Batch) -> tuple[Ragged, dict[str, Tensor]]:
        """Return a vector for each word, and the model's costs."""
        return self.model.encode(batch.tokens, batch.extras["pieces"], batch.extras.get("words"))

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.layout, batch.extras["pieces"])

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Tagged]:
        """Return for each sentence its tags, and how likely they are."""
        with torch.no_grad():
            hidden, _ = self.hidden(batch)
            tags_W = self.model.head.decode(hidden.values, hidden.lengths)
            likelihoods = self.model.head.likelihoods(hidden.values, hidden.lengths, tags_W)
        columns = (hidden.with_values(values.cpu()).to_list() for values in (tags_W, *likelihoods))
        return [Tagged(*row) for row in zip(*columns, strict=True)]

    @property
    def max_length(self) -> int | None:
        return self.model.max_length

    @property
    def max_words(self) -> int | None:
        return self.model.max_words
