"""Language modelling: predict each next token of a sequence, and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding, generate
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged
from seqlab.tasks.task import ROWS_AT_ONCE, StepOutput, Term, perplexity, seeds_of, terms_of


class LanguageModeling:
    """Nats per token, perplexity, and bits per byte of the original text, which compares across tokenizers.

    What the model itself adds to the objective, its `costs`, are terms too, averaged over the tokens read.

    Args:
        model: the language model.
        lossless: the tokenizer loses nothing of the text; bits per byte mean something only then, and are left out
            otherwise.
        end: the token that ends a text.
        decoding: how a text is continued.
    """

    monitor = "loss"

    def __init__(self, model: LanguageModel, lossless: bool, end: int, decoding: Decoding) -> None:
        self.model = model
        self.lossless = lossless
        self.end, self.decoding = end, decoding

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"loss": batch.targets.layout.total}
        if self.lossless:
            counts["bits_per_byte"] = int(batch.num_bytes.sum())
        return {**counts, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        hidden, costs = self.encode(batch)
        nats = self.model.head.loss(hidden.values, batch.targets.values)
        counts = self.counts(batch)
        terms = terms_of(nats, costs, self.model.costs, counts)
        if self.lossless:
            terms["bits_per_byte"] = Term(nats.detach() / math.log(2), counts["bits_per_byte"], 0.0)
        return StepOutput(terms)

    def encode(self, batch: Batch) -> tuple[Ragged, dict[str, Tensor]]:
        """Hidden [T, D], and the sum over the tokens of each of the model's `costs`."""
        return self.model.encode(batch.tokens)

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        return {**averages, "ppl": perplexity(averages["loss"])}

    def answer(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[list[Hypothesis]]:
        """For each text its continuations, best first."""
        how, seeds = decoding or self.decoding, seeds_of(batch, seed)
        return generate(self.model, self.begin(batch)[0], self.end, how, seeds, at_once=ROWS_AT_ONCE)

    def begin(self, batch: Batch) -> tuple[Ragged, None]:
        """What is continued, and what the model knows before: nothing."""
        return batch.tokens, None
