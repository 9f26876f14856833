"""Sequence to sequence: read a text, write another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.errors import InputError
from seqlab.models.decoding import Decoding, generate
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.state import Seq2SeqState
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.metric import Metric, choose_metrics, main_figure
from seqlab.tasks.metrics.text import Bleu, ChrF, ExactMatch
from seqlab.tasks.task import ROWS_AT_ONCE, StepOutput, Task, perplexity, seeds_of, terms_of
from seqlab.text.tokenizer import Tokenizer


class SequenceToSequence(Task):
    """Sequence to sequence: the loss is in nats per token, with teacher forcing; metrics read the text that is written.

    A metric of `metrics` is passed, as `predicted` and `targets`, a list of the texts that the model writes and a list
    of the targets; or, where it sets `reads_ids`, lists of their token ids, without end marks and unknown words.

    Args:
        model: the model.
        written: the tokenizer of the target.
        decoding: how the model writes, in evaluation and in use.
        metrics: names among "exact_match", "bleu" and "chrf", and metrics of your own. With none, evaluation writes
            nothing.
        bleu_tokenize: how sacrebleu splits text into words; "none" for text that is tokenized already.
        monitor: the figure that chooses the best checkpoint; None: that of the first metric, or "loss".

    Raises:
        InputError: there is no such metric, or a metric needs text that the tokenizer does not give back.
    """

    model: Seq2Seq
    decoding: Decoding

    def __init__(
        self,
        model: Seq2Seq,
        written: Tokenizer,
        decoding: Decoding,
        metrics: Sequence[str | Metric] = ("exact_match",),
        bleu_tokenize: str = "13a",
        monitor: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.end, self.decoding = model, written, written.end, decoding
        known = {"exact_match": ExactMatch, "bleu": lambda: Bleu(bleu_tokenize), "chrf": ChrF}
        self.metrics_by_name = choose_metrics(metrics, known)
        lossy = [name for name, metric in self.metrics_by_name.items() if metric.needs_whole_text]
        if lossy and not written.lossless:
            raise InputError(
                f"task.metrics={lossy[0]} compares with the target's text, of which its tokenizer loses some: choose "
                "tokenizer@form.target_tokenizer=bpe or tokenizer=bpe; or, for BLEU of words between blanks, "
                "task.bleu_tokenize=none"
            )
        self.monitor = monitor or main_figure(self.metrics_by_name)

    @property
    def decoding_settings(self) -> dict[str, Any]:
        """The decoding and the signatures of the metrics, which decide the figures of written text."""
        return {"decoding": asdict(self.decoding), **super().decoding_settings} if self.metrics_by_name else {}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.targets.layout.total, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        hidden, costs = self.model.encode(batch.tokens, batch.extras["prefix"])
        nats = self.model.head.loss(hidden.values, batch.targets.values)
        terms = terms_of(nats, costs, self.model.costs, self.counts(batch))
        return StepOutput(terms, {} if self.model.training else self.written_tallies(batch))

    def written_tallies(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the metrics count in the texts that the model writes for a batch; {} without metrics."""
        if not self.metrics_by_name:
            return {}
        unknown, end = self.tokenizer.unknown, self.tokenizer.end
        # An unknown word is never right: where it is written it says nothing, where it should be it is not reached.
        written = [[t for t in best[0].tokens.tolist() if t != unknown] for best in self.predict(batch)]
        targets = [[t for t in target.tolist() if t != end] for target in batch.targets.to_list()]
        texts = [[self.tokenizer.decode(ids) for ids in side] for side in (written, targets)]
        metrics = self.metrics_by_name.items()
        return {name: metric.tally(*((written, targets) if metric.reads_ids else texts)) for name, metric in metrics}

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths, batch.extras["prefix"].lengths)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        return super().metrics({**averages, "ppl": perplexity(averages["loss"])}, tallies)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[list[Hypothesis]]:
        """Return for each example what the model writes, best first.

        A target without an end mark is a prefix, which is continued. A complete target is not read.
        """
        how, seeds = decoding or self.decoding, seeds_of(batch, seed)
        with torch.no_grad():
            prompts, state = self.begin(batch)
        return generate(self.model, prompts, self.end, how, seeds, state, ROWS_AT_ONCE)

    def begin(self, batch: Batch) -> tuple[Ragged, Seq2SeqState]:
        """Return the targets to continue, behind an end mark, and the model's state after reading the sources."""
        end = batch.targets.values.new_tensor([self.end])
        targets = batch.targets.to_list()
        begun = [torch.cat([end, target[:0] if target[-1:].equal(end) else target]) for target in targets]
        return Ragged.from_list(begun), self.model.remember(batch.tokens)

    @property
    def max_length(self) -> int | None:
        return self.model.max_length
