"""Sequence to sequence: read a text, write another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.errors import InputError, did_you_mean
from seqlab.models.decoding import Decoding, generate
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.state import Seq2SeqState
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.text import Bleu, ChrF, ExactMatch
from seqlab.tasks.task import ROWS_AT_ONCE, StepOutput, perplexity, seeds_of, terms_of
from seqlab.text.tokenizer import Tokenizer


class SequenceToSequence:
    """Nats per token, given what comes before it; and figures of the text that the model writes by itself.

    Args:
        model: the model.
        written: the tokenizer of what is written.
        decoding: how the model writes, when it is judged and when it is used.
        judged_by: of the written texts: any of "exact_match", "bleu", "chrf"; without any, nothing is written while
            judging.
        bleu_tokenize: how sacrebleu splits text into words; "none" for text that is tokenized already.
        monitor: the metric that decides which checkpoint is best; None: the first of `judged_by`, or "loss".
    """

    def __init__(
        self,
        model: Seq2Seq,
        written: Tokenizer,
        decoding: Decoding,
        judged_by: Sequence[str] = ("exact_match",),
        bleu_tokenize: str = "13a",
        monitor: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.decoding = model, written, decoding
        known: dict[str, Any] = {"exact_match": ExactMatch, "bleu": lambda: Bleu(bleu_tokenize), "chrf": ChrF}
        if strange := [name for name in judged_by if name not in known]:
            hint = did_you_mean(strange[0], known)
            raise InputError(f"task.judged_by={strange[0]} is not {', '.join(known)}{hint}")
        lossy = [name for name in judged_by if name != "exact_match"] if not written.lossless else []
        if lossy and (bleu_tokenize != "none" or "chrf" in lossy):
            raise InputError(
                f"task.judged_by={lossy[0]} compares with the target's text, of which its tokenizer loses some: choose "
                "tokenizer@form.target_tokenizer=bpe or tokenizer=bpe; or, for BLEU of words between blanks, "
                "task.bleu_tokenize=none"
            )
        self.judges = {name: known[name]() for name in judged_by}
        self.monitor = monitor or (*judged_by, "loss")[0]

    @property
    def conditions(self) -> dict[str, Any]:
        """How the figures of what is written come about, without which they compare with no others: the decoding, and
        sacrebleu's signatures."""
        signatures = {name: judge.signature for name, judge in self.judges.items() if hasattr(judge, "signature")}
        return {"decoding": asdict(self.decoding), **signatures} if self.judges else {}

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": batch.targets.layout.total, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        hidden, costs = self.model.encode(batch.tokens, batch.extras["prefix"])
        nats = self.model.head.loss(hidden.values, batch.targets.values)
        terms = terms_of(nats, costs, self.model.costs, self.counts(batch))
        return StepOutput(terms, {} if self.model.training else self.judged(batch))

    def judged(self, batch: Batch) -> dict[str, Tensor]:
        """The tallies of what the model writes for a batch."""
        if not self.judges:
            return {}
        unknown, end = self.tokenizer.unknown, self.tokenizer.end
        # An unknown word is never right: where it is written it says nothing, where it should be it is not reached.
        written = [[t for t in best[0].tokens.tolist() if t != unknown] for best in self.answer(batch)]
        right = [[t for t in target.tolist() if t != end] for target in batch.targets.to_list()]
        decoded = [[self.tokenizer.decode(ids) for ids in side] for side in (written, right)]
        return {
            name: judge.tally(written, right) if name == "exact_match" else judge.tally(*decoded)
            for name, judge in self.judges.items()
        }

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths, batch.extras["prefix"].lengths)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        figures = {**averages, "ppl": perplexity(averages["loss"])}
        for name, tally in tallies.items():
            figures |= self.judges[name].read(tally)
        return figures

    def answer(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[list[Hypothesis]]:
        """For each example what was written, best first: after a target without an end mark what follows; a complete
        one is not looked at."""
        how, seeds = decoding or self.decoding, seeds_of(batch, seed)
        with torch.no_grad():
            prompts, state = self.begin(batch)
        return generate(self.model, prompts, self.end, how, seeds, state, ROWS_AT_ONCE)

    @property
    def end(self) -> int:
        """The token that ends what is written."""
        return self.tokenizer.end

    def begin(self, batch: Batch) -> tuple[Ragged, Seq2SeqState]:
        """What is continued, an end mark and a target without one; and what the model knows before: the source."""
        end = batch.targets.values.new_tensor([self.end])
        targets = batch.targets.to_list()
        begun = [torch.cat([end, target[:0] if target[-1:].equal(end) else target]) for target in targets]
        return Ragged.from_list(begun), self.model.remember(batch.tokens)
