"""Preprocessing for masked language modelling: text alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.preprocessing.preprocessor import lists, table, text_of
from seqlab.data.rejects import Rejects
from seqlab.text.vocabularies import Vocabularies

MARK = "<mask>"


@dataclass(frozen=True)
class MaskedLanguageModelingPreprocessor(LanguageModelingPreprocessor):
    """A sequence per text, as for language modelling. In an input, each "<mask>" stands for one token to predict.

    Byte pairs hold the blank before a word: "The<mask> ran" asks for a word, "The <mask> ran" for one without a blank.
    """

    continues_text = False

    @property
    def ranks_candidates(self) -> bool:
        return True

    def sample_input(self, fields: Collection[str] = ()) -> str:
        return '{"text": "The<mask> ran."}'

    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parts of the text between the marks, so that no text is taken for one."""
        parts = text_of(given, "text").split(MARK)
        if len(parts) == 1:
            raise ValueError(f"expected a text with {MARK} in it, such as {self.sample_input()}")
        return {"text": parts}

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        texts = records.column("text")
        if texts.type == pa.string():
            return super().tokenize(records, vocabularies, rejects)
        tokenizer = vocabularies.tokenizer
        rows = []
        for parts in texts.to_pylist():
            first, *others = tokenizer.encode(parts)
            rows.append([tokenizer.end, *first])
            for part in others:
                rows[-1] += [len(tokenizer), *part]  # the mask token: one beyond the vocabulary
        # As in `LanguageModelingPreprocessor`, the last token of a row is not read.
        return table(map(len, rows), [0] * len(rows), tokens=lists([[*row, tokenizer.end] for row in rows]))

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return the text with the likeliest tokens filled in, and the candidates for each place, likeliest first.

        Where the record is not known, return the text with its marks in place of the candidates.
        """
        decode = vocabularies.tokenizer.decode
        filled = decode(prediction.tokens.index_copy(0, prediction.rows, prediction.likeliest[:, 0]).tolist())
        if not record:
            parts = prediction.tokens.tensor_split(prediction.rows.cpu())
            return {
                "filled": filled,
                "masked": MARK.join(decode(part[i > 0 :].tolist()) for i, part in enumerate(parts)),
            }
        places = zip(prediction.likeliest.tolist(), prediction.probabilities.tolist(), strict=True)
        masks = [
            [{"token": decode([token]), "probability": p} for token, p in zip(*place, strict=True)] for place in places
        ]
        return {"filled": filled, "masks": masks}
