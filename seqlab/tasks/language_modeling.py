"""Language modelling: predict each next token of a sequence, and its end."""

from __future__ import annotations

import math

from seqlab.data.batch import Batch
from seqlab.models.language_model import LanguageModel
from seqlab.tasks.task import StepOutput, Term


class LanguageModeling:
    """Nats per token, perplexity, and bits per byte of the original text, which compares across tokenizers.

    Args:
        model: the language model.
        lossless: the tokenizer loses nothing of the text; bits per byte mean something only then, and are left out
            otherwise.
    """

    monitor = "loss"

    def __init__(self, model: LanguageModel, lossless: bool) -> None:
        self.model = model
        self.lossless = lossless

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"loss": batch.targets.layout.total}
        if self.lossless:
            counts["bits_per_byte"] = int(batch.bytes.sum())
        return counts

    def step(self, batch: Batch) -> StepOutput:
        hidden, _ = self.model(batch.tokens)
        nats = self.model.head.loss(hidden.values, batch.targets.values)
        counts = self.counts(batch)
        terms = {"loss": Term(nats, counts["loss"], 1.0)}
        if self.lossless:
            terms["bits_per_byte"] = Term(nats.detach() / math.log(2), counts["bits_per_byte"], 0.0)
        return StepOutput(terms)

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def metrics(self, averages: dict[str, float]) -> dict[str, float]:
        return {**averages, "ppl": math.exp(min(averages["loss"], 700.0))}
