"""Language modelling: predict each next token of a sequence, and its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding, generate
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.metric import Metric, choose_metrics
from seqlab.tasks.task import ROWS_AT_ONCE, StepOutput, Task, Term, perplexity, seeds_of, terms_of


class LanguageModeling(Task):
    """Nats per token, perplexity, and bits per byte of the original text, which compares across tokenizers.

    What the model itself adds to the objective, its `costs`, are terms too, averaged over the tokens read.

    A metric of `metrics` is passed, as `predicted` and `targets`, the scores [T, V] of each next token, before the
    softmax, and the tokens [T] int64.

    Args:
        model: the language model.
        lossless: whether the tokenizer loses nothing of the text. Bits per byte are left out where it does.
        end: the token that ends a text.
        decoding: how a text is continued.
        metrics: metrics of your own.

    Raises:
        InputError: a metric is given by name; there is none.
    """

    model: LanguageModel
    decoding: Decoding

    def __init__(
        self,
        model: LanguageModel,
        lossless: bool,
        end: int,
        decoding: Decoding,
        metrics: Sequence[str | Metric] = (),
    ) -> None:
        self.model = model
        self.lossless = lossless
        self.end, self.decoding = end, decoding
        self.metrics_by_name = choose_metrics(metrics, {})

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
        if self.model.training or not self.metrics_by_name:
            return StepOutput(terms)
        return StepOutput(terms, self.tally(self.model.head.scores(hidden.values), batch.targets.values))

    def encode(self, batch: Batch) -> tuple[Ragged, dict[str, Tensor]]:
        """Return hidden [T, D], and the sum over the tokens of each of the model's `costs`."""
        return self.model.encode(batch.tokens)

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        return super().metrics({**averages, "ppl": perplexity(averages["loss"])}, tallies)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[list[Hypothesis]]:
        """Return for each text its continuations, best first."""
        how, seeds = decoding or self.decoding, seeds_of(batch, seed)
        return generate(self.model, self.begin(batch)[0], self.end, how, seeds, at_once=ROWS_AT_ONCE)

    def begin(self, batch: Batch) -> tuple[Ragged, None]:
        """Return the texts, which are continued, and no state before them."""
        return batch.tokens, None

    @property
    def max_length(self) -> int | None:
        return self.model.max_length
