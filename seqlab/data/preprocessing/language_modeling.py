"""Preprocessing for language modelling: text alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.preprocessor import Preprocessor, Reference, lists, table, text_of
from seqlab.data.rejects import Rejects
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies


@dataclass(frozen=True)
class LanguageModelingPreprocessor(Preprocessor):
    """A sequence per text: end mark, its tokens, end mark, each of which predicts the next.

    Bits per byte count the UTF-8 bytes of the text and 1 for its end, which stands for a NUL.
    """

    fields = ("text",)
    policies: ClassVar[tuple[str, ...]] = ("split", "truncate", "drop", "error")
    continues_text: ClassVar[bool] = True
    cuts_inputs = False

    def sample_input(self, fields: Collection[str] = ()) -> str:
        return '{"text": "Return the"}'

    def fingerprint(self) -> str:
        return "LanguageModelingPreprocessor()"  # of all preprocessors of text alone: they make the same examples

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        return Vocabularies(tokenizer.train(records.column("text").to_pylist()))

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        texts = records.column("text").to_pylist()
        end = vocabularies.tokenizer.end
        tokens = [[end, *ids, end] for ids in vocabularies.tokenizer.encode(texts)]
        sizes = [len(text.encode()) + 1 for text in texts]
        return table([len(row) - 1 for row in tokens], sizes, tokens=lists(tokens))

    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": text_of(given, "text")}

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return the continuation of a prediction: hypotheses, best first."""
        return format_hypotheses("continuation", prediction, vocabularies.tokenizer)

    def format_input(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        return {"text": vocabularies.tokenizer.decode(example.tokens.values.tolist())}

    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> Reference:
        return vocabularies.tokenizer.decode(example.targets.values.tolist())


def format_hypotheses(
    name: str, hypotheses: Sequence[Any], tokenizer: Tokenizer, prefix: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the best text under a name, and, where there are several, all texts under "best" with their scores.

    Args:
        name: of the best text.
        hypotheses: best first, each with `tokens` [L] and `score`.
        tokenizer: of the texts.
        prefix: the tokens with which each text begins.
    """
    texts = [tokenizer.decode([*prefix, *hypothesis.tokens.tolist()]) for hypothesis in hypotheses]
    if len(texts) == 1:
        return {name: texts[0]}
    scored = [{name: text, "score": hypothesis.score} for text, hypothesis in zip(texts, hypotheses, strict=True)]
    return {name: texts[0], "best": scored}
