"""Classification of sequences: a class, any number of classes, or a number for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.classifier import Classifier
from seqlab.models.decoding import Decoding
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.calibration import Calibration
from seqlab.tasks.metrics.classes import Confusion, LabelSets
from seqlab.tasks.metrics.regression import Regression
from seqlab.tasks.task import StepOutput, terms_of


class Classification:
    """Nats (of a number, the squared error) per sequence, and figures of what is answered.

    Args:
        model: the classifier.
        answer: "one" class for each sequence, "many", or a "number"; the form's `answer`.
        label_names: of the classes, by id.
        monitor: the metric that decides which checkpoint is best; None: accuracy, micro_f1 of many, mse of numbers.
    """

    def __init__(
        self,
        model: Classifier,
        answer: Literal["one", "many", "number"],
        label_names: tuple[str, ...] | None,
        monitor: str | None = None,
    ) -> None:
        self.model, self.kind = model, answer
        names = label_names or ()
        figures: dict[str, dict[str, Any]] = {
            "one": {"classes": Confusion(names), "calibration": Calibration()},
            "many": {"classes": LabelSets(names)},
            "number": {"numbers": Regression()},
        }
        self.figures = figures[answer]
        self.monitor = monitor or {"one": "accuracy", "many": "micro_f1", "number": "mse"}[answer]

    def counts(self, batch: Batch) -> dict[str, int]:
        judged = len(batch) if self.kind == "many" else batch.predicted
        return {"loss": judged, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        pooled_BD, costs = self.model.encode(batch.tokens)
        loss = self.model.head.loss(pooled_BD, batch.targets.values, batch.targets.lengths)
        terms = terms_of(loss, costs, self.model.costs, self.counts(batch))
        return StepOutput(terms, {} if self.model.training else self.tallies(pooled_BD, batch.targets))

    def tallies(self, pooled_BD: Tensor, targets: Ragged) -> dict[str, Tensor]:
        """What the figures are read from."""
        scores_BC: Tensor = self.model.head.scores(pooled_BD)
        given: dict[str, tuple[Tensor, Tensor]]
        if self.kind == "one":
            given = {"classes": (scores_BC.argmax(1), targets.values), "calibration": (scores_BC, targets.values)}
        elif self.kind == "many":
            there_BC = torch.zeros_like(scores_BC, dtype=torch.bool)
            there_BC[targets.layout.segments.to(targets.device), targets.values] = True
            given = {"classes": (scores_BC > 0, there_BC)}
        else:
            given = {"numbers": (scores_BC.squeeze(1), targets.values)}
        return {name: self.figures[name].tally(*pair) for name, pair in given.items()}

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        figures = dict(averages)
        for name, tally in tallies.items():
            figures |= self.figures[name].read(tally)
        return figures

    def answer(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Tensor]:
        """For each sequence the probability of every class, [C], or its number."""
        with torch.no_grad():
            return list(self.model.answer(self.model(batch.tokens)).cpu())
