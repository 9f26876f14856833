"""Text alone, for language models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.preprocessor import Truth, lists, table, text_of
from seqlab.data.rejects import Rejects
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies


@dataclass(frozen=True)
class LanguageModelingPreprocessor:
    """A sequence per text: end mark, its tokens, end mark, each of which predicts the next.

    Bits per byte count the UTF-8 bytes of the text and 1 for its end, which stands for a NUL.
    """

    fields = ("text",)
    policies: ClassVar[tuple[str, ...]] = ("split", "truncate", "drop", "error")

    def example(self, fields: Collection[str] = ()) -> str:
        return '{"text": "Return the"}'

    def fingerprint(self) -> str:
        return "LanguageModelingPreprocessor()"  # of all forms of text alone: they read the same rows

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        return Vocabularies(tokenizer.train(records.column("text").to_pylist()))

    def rows(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        texts = records.column("text").to_pylist()
        end = vocabularies.tokenizer.end
        tokens = [[end, *ids, end] for ids in vocabularies.tokenizer.encode(texts)]
        sizes = [len(text.encode()) + 1 for text in texts]
        return table([len(row) - 1 for row in tokens], sizes, tokens=lists(tokens))

    def record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": text_of(item, "text")}

    def told(self, answer: Any, record: Mapping[str, Any], vocabularies: Vocabularies) -> dict[str, Any]:
        """Of continuations, best first, each with `tokens` and `score`."""
        return written("continuation", answer, vocabularies.tokenizer)

    def item(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        return {"text": vocabularies.tokenizer.decode(example.tokens.values.tolist())}

    def truth(self, example: Batch, vocabularies: Vocabularies) -> Truth:
        return vocabularies.tokenizer.decode(example.targets.values.tolist())


def written(name: str, answer: Sequence[Any], tokenizer: Tokenizer, begun: Sequence[int] = ()) -> dict[str, Any]:
    """The best text under that name; where several were asked for, all of them with their scores. Each begins with the
    tokens that were `begun` with."""
    texts = [tokenizer.decode([*begun, *hypothesis.tokens.tolist()]) for hypothesis in answer]
    if len(texts) == 1:
        return {name: texts[0]}
    scored = [{name: text, "score": hypothesis.score} for text, hypothesis in zip(texts, answer, strict=True)]
    return {name: texts[0], "best": scored}
