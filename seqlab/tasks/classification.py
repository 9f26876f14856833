"""Classification of sequences: a class, any number of classes, or a number for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.classifier import Classifier
from seqlab.models.decoding import Decoding
from seqlab.tasks.metrics.calibration import Calibration
from seqlab.tasks.metrics.classes import Confusion, LabelSets
from seqlab.tasks.metrics.metric import Metric, choose_metrics, main_figure
from seqlab.tasks.metrics.regression import Regression
from seqlab.tasks.task import StepOutput, Task, terms_of

# The metrics that suit each kind of answer, and what they are called for people.
METRICS = {"one": ("classes", "calibration"), "many": ("label_sets",), "number": ("regression",)}
DESCRIPTIONS = {
    "one": "classification, one class",
    "many": "classification, any number of classes",
    "number": "regression, a number",
}


class Classification(Task):
    """Classification of whole sequences, or regression: the loss is in nats, or squared errors, per sequence.

    A metric of `metrics` is passed, in `predicted` and `targets`,

    one     the scores [B, C] of the classes, before the softmax; the classes [B] int64, -100 for one that is ignored
    many    the scores [B, C] of the classes, before the sigmoid; [B, C] bool: which classes each sequence has
    number  the numbers [B]; the numbers [B]

    Args:
        model: the classifier.
        answer: "one" class for each sequence, "many", or a "number"; the same as the preprocessor's.
        label_names: the names of the classes, by id.
        metrics: names among "classes", "calibration" (of one class), "label_sets" (of many) and "regression" (of
            numbers), and metrics of your own; None: those that suit `answer`.
        monitor: the figure that chooses the best checkpoint; None: that of the first metric, which by default is
            accuracy, micro_f1 of many, mse of numbers.

    Raises:
        InputError: there is no such metric.
    """

    model: Classifier

    def __init__(
        self,
        model: Classifier,
        answer: Literal["one", "many", "number"],
        label_names: tuple[str, ...] | None,
        metrics: Sequence[str | Metric] | None = None,
        monitor: str | None = None,
    ) -> None:
        self.model, self.kind = model, answer
        names = label_names or ()
        known: dict[str, Callable[[], Metric]] = {
            "classes": lambda: Confusion(names),
            "calibration": Calibration,
            "label_sets": lambda: LabelSets(names),
            "regression": Regression,
        }
        fitting = {name: known[name] for name in METRICS[answer]}
        self.metrics_by_name = choose_metrics(METRICS[answer] if metrics is None else metrics, fitting)
        self.monitor = monitor or main_figure(self.metrics_by_name)

    def counts(self, batch: Batch) -> dict[str, int]:
        evaluated = len(batch) if self.kind == "many" else batch.predicted
        return {"loss": evaluated, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        pooled_BD, costs = self.model.encode(batch.tokens)
        loss = self.model.head.loss(pooled_BD, batch.targets.values, batch.targets.lengths)
        terms = terms_of(loss, costs, self.model.costs, self.counts(batch))
        if self.model.training:
            return StepOutput(terms)
        scores_BC: Tensor = self.model.head.scores(pooled_BD)
        targets = batch.targets
        if self.kind == "one":
            return StepOutput(terms, self.tally(scores_BC, targets.values))
        if self.kind == "number":
            return StepOutput(terms, self.tally(scores_BC.squeeze(1), targets.values))
        there_BC = torch.zeros_like(scores_BC, dtype=torch.bool)
        there_BC[targets.layout.segments.to(targets.device), targets.values] = True
        return StepOutput(terms, self.tally(scores_BC, there_BC))

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Tensor]:
        """Return for each sequence the probability of every class, [C], or its number."""
        with torch.no_grad():
            return list(self.model.answer(self.model(batch.tokens)).cpu())

    @property
    def max_length(self) -> int | None:
        return self.model.max_length

    @property
    def description(self) -> str:
        return DESCRIPTIONS[self.kind]
