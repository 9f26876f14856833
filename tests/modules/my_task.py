"""A researcher's own task, outside the package: tell how surprising a text is."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.models.decoding import Decoding
from seqlab.models.language_model import LanguageModel
from seqlab.tasks.task import StepOutput, Task, Term
from seqlab.text.vocabularies import Vocabularies


class SurprisePreprocessor(LanguageModelingPreprocessor):
    """Text alone, whose prediction is a number."""

    continues_text = False

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        return {"surprise": float(prediction)}

    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> float:
        return 0.0


class Surprise(Task):
    """Language modelling, in which a prediction is the nats of a whole text."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.targets.layout.total}

    def step(self, batch: Batch) -> StepOutput:
        hidden, _ = self.model.encode(batch.tokens)
        nats = self.model.head.loss(hidden.values, batch.targets.values)
        return StepOutput({"loss": Term(nats, self.counts(batch)["loss"], 1.0)})

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Tensor]:
        with torch.no_grad():
            hidden, _ = self.model.encode(batch.tokens)
            scores_TV = self.model.head.scores(hidden.values)
            nats_T = nn.functional.cross_entropy(scores_TV, batch.targets.values, reduction="none")
        return list(nats_T.new_zeros(len(batch)).index_add(0, batch.tokens.layout.segments, nats_T).cpu())
