"""Preprocessing for sequence to sequence: a text, and the text to write for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.language_modeling import format_hypotheses
from seqlab.data.preprocessing.preprocessor import Preprocessor, Reference, lists, table, text_of, values
from seqlab.data.rejects import Rejects
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies


@dataclass(frozen=True)
class SequenceToSequencePreprocessor(Preprocessor):
    """The source's tokens and an end mark are read; end mark, the target's tokens, end mark are written.

    Who asks may give the beginning of the target, `target_prefix`: a target that has no end mark yet, to go on from.

    target_tokenizer  of the target; None: the tokenizer of the source is trained on both and writes too
    """

    target_tokenizer: TokenizerTrainer | None = None

    fields = ("source", "target")

    def sample_input(self, fields: Collection[str] = ()) -> str:
        return '{"source": "A text."}'

    def fingerprint(self) -> str:
        target = None if self.target_tokenizer is None else self.target_tokenizer.fingerprint()
        return f"SequenceToSequencePreprocessor({target})"

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        sources, targets = (records.column(field).to_pylist() for field in self.fields)
        if self.target_tokenizer is None:
            return Vocabularies(tokenizer.train([*sources, *targets]))
        return Vocabularies(tokenizer.train(sources), target=self.target_tokenizer.train(targets))

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        sources, targets = values(records, "source"), values(records, "target")
        assert sources is not None
        read, write = vocabularies.tokenizer, vocabularies.written
        tokens = [[*ids, read.end] for ids in read.encode(sources)]
        if targets is None:
            targets = values(records, "target_prefix") or [""] * len(sources)
            rows = [[write.end, *ids] for ids in write.encode(targets)]
        else:
            rows = [[write.end, *ids, write.end] for ids in write.encode(targets)]
        lengths = [len(a) + len(b) - 1 for a, b in zip(tokens, rows, strict=True)]
        sizes = [len(target.encode()) + 1 for target in targets]
        return table(lengths, sizes, tokens=lists(tokens), written=lists(rows))

    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        prefix = given.get("target_prefix", "")
        if not isinstance(prefix, str):
            raise ValueError("target_prefix: expected a text, with which what is written is to begin")
        return {"source": text_of(given, "source", "text"), "target_prefix": prefix}

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return the target of a prediction: hypotheses, best first, each text with the record's prefix."""
        (prefix,) = vocabularies.written.encode([record.get("target_prefix", "")])
        return format_hypotheses("target", prediction, vocabularies.written, prefix)

    def format_input(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        return {"source": vocabularies.tokenizer.decode(example.tokens.values.tolist())}

    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> Reference:
        return vocabularies.written.decode(example.targets.values.tolist())
