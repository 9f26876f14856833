"""Preprocessing for tagging: words, and a tag for each of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.preprocessor import Preprocessor, Reference, label_names, lists, origin, table, values
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError, counted, did_you_mean
from seqlab.ragged import IGNORED
from seqlab.text.tags import OUTSIDE, convert, mark_spans, places, spans
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies

_WORD = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class TaggingPreprocessor(Preprocessor):
    """Every word is cut into pieces by the tokenizer, on its own, and has at least one.

    words          how many of the most frequent words also have an id of their own; None: none
    min_frequency  how often a word must occur in training to be among them
    scheme         by which tags that mark spans are written while training: a text may have another, or break it;
                   None: as they are
    ignored        tags that are not predicted
    """

    words: int | None = None
    min_frequency: int = 2
    scheme: Literal["BIO", "IOBES"] | None = "BIO"
    ignored: tuple[str, ...] = ()

    fields = ("words", "tags")

    def __post_init__(self) -> None:
        if (self.words or 1) < 1 or self.min_frequency < 1:
            raise InputError("form.words and form.min_frequency: expected at least 1")

    def sample_input(self, fields: Collection[str] = ()) -> str:
        return '{"text": "Ann went to Paris."}'

    @property
    def converts_tags(self) -> bool:
        return self.scheme is not None and not self.ignored

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        occurrences = list(chain.from_iterable(records.column("words").to_pylist()))
        words: tuple[str, ...] | None = None
        if self.words is not None:
            counts = Counter(occurrences)
            ranked = sorted(counts, key=lambda word: (-counts[word], word))[: self.words]
            words = tuple(word for word in ranked if counts[word] >= self.min_frequency)
        sentences = records.column("tags").to_pylist()
        labels = label_names(chain.from_iterable(sentences), self.ignored)
        if self.converts_tags and mark_spans(labels):
            labels = label_names([OUTSIDE, *places(labels, self.scheme or "BIO")], ())
        return Vocabularies(tokenizer.train(occurrences), labels=labels, words=words)

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        words, tags = values(records, "words"), values(records, "tags")
        assert words is not None
        kept = list(range(len(words)))
        targets: list[list[int] | str] = [[] for _ in words]
        if tags is not None:
            if self.converts_tags and mark_spans(vocabularies.labels or ()):
                tags = [convert(row, self.scheme or "BIO") if mark_spans(row) else row for row in tags]
            targets = [self.target(row, vocabularies) for row in tags]
            for row, (these, target) in enumerate(zip(words, targets, strict=True)):
                if isinstance(target, str):
                    rejects.add(origin(records, row), "unknown label", target)
                elif len(target) != len(these):
                    message = f"{counted(len(these), 'word')} and {counted(len(target), 'tag')}: expected one for each"
                    rejects.add(origin(records, row), "tags do not match the words", message)
            kept = [row for row in kept if isinstance(targets[row], list) and len(targets[row]) == len(words[row])]
        pieces = pieces_of(chain.from_iterable(words), vocabularies.tokenizer)
        cut = [[pieces[word] for word in words[row]] for row in kept]
        columns = {
            "tokens": lists([list(chain.from_iterable(row)) for row in cut]),
            "targets": lists([target for target in map(targets.__getitem__, kept) if not isinstance(target, str)]),
            "pieces": lists([list(map(len, row)) for row in cut]),
        }
        if vocabularies.words is not None:
            columns["words"] = lists([[vocabularies.word_ids.get(word, 0) for word in words[row]] for row in kept])
        sizes = [sum(len(word.encode()) for word in words[row]) for row in kept]
        return table([sum(map(len, row)) for row in cut], sizes, **columns)

    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return words as they are given, or those of a text: runs of letters and digits, and runs of anything else."""
        words = given.get("words")
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return {"words": words}
        if isinstance(given.get("text"), str):
            found = list(_WORD.finditer(given["text"]))
            return {"words": [word.group() for word in found], "starts": [word.start() for word in found]}
        raise ValueError('expected an object such as {"words": ["Some", "text", "."]}, or {"text": "Some text."}')

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return each word's tag with its probability, of a prediction that is a `Tagged` sentence.

        Where tags mark spans, return these too: their words, their characters where the record is a text, and the
        probability that their words have these tags.
        """
        assert vocabularies.labels is not None
        tags = [vocabularies.labels[tag] for tag in prediction.tags.tolist()]
        words, starts = record.get("words", []), record.get("starts")
        found: dict[str, Any] = {"tags": tags, "probabilities": prediction.probabilities.tolist()}
        found = found if starts is None else {"words": words, **found}
        if mark_spans(vocabularies.labels):
            found["spans"] = []
            for first, end, kind in spans(tags):
                place: dict[str, Any] = {"type": kind, "words": [first, end]}
                if starts is not None:
                    place["characters"] = [starts[first], starts[end - 1] + len(words[end - 1])]
                given = prediction.given_before[first + 1 : end].prod()
                place["probability"] = (prediction.probabilities[first] * given).item()
                found["spans"].append(place)
        return found

    def format_input(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        pieces = example.tokens.values.split(example.extras["pieces"].values.tolist())
        return {"words": [vocabularies.tokenizer.decode(piece.tolist()) for piece in pieces]}

    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> Reference:
        names = vocabularies.labels or ()
        return [names[target] if target >= 0 else "?" for target in example.targets.values.tolist()]

    def target(self, tags: Sequence[str], vocabularies: Vocabularies) -> list[int] | str:
        """Return the ids of tags; where one has none, a message that says why."""
        known = vocabularies.label_ids
        for tag in tags:
            if tag not in known and tag not in self.ignored:
                return f"the tag {tag!r} does not occur in the training data{did_you_mean(tag, known)}"
        return [known.get(tag, IGNORED) for tag in tags]


def pieces_of(words: Sequence[str] | chain[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The tokens of each distinct word; one of which the tokenizer leaves nothing is an end mark."""
    distinct = list(dict.fromkeys(words))
    return {word: ids or [tokenizer.end] for word, ids in zip(distinct, tokenizer.encode(distinct), strict=True)}
