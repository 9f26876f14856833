"""Every figure against what is counted by hand, or by a loop over the records that nobody could get wrong."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqlab.data import statistics
from seqlab.data.corpus import Corpus
from seqlab.data.examples import Examples
from seqlab.data.loader import PlannedLoader
from seqlab.data.preprocessing.classification import ClassificationPreprocessor
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.preprocessing.preprocessor import Preprocessor
from seqlab.data.preprocessing.sequence_to_sequence import SequenceToSequencePreprocessor
from seqlab.data.preprocessing.tagging import TaggingPreprocessor
from seqlab.data.rejects import Rejects
from seqlab.text.tags import spans
from seqlab.text.tokenizer_training import Bytes, TokenizerTrainer, Words

some = settings(max_examples=40)
Records = dict[str, list[Any]]  # by field


def corpus_of(
    preprocessor: Preprocessor, splits: dict[str, Records], tokenizer: TokenizerTrainer | None = None
) -> Corpus:
    """Prepared as `corpus.prepare` does, without files; the tables in chunks of two rows, which are slices of one."""
    records = {split: pa.table(columns) for split, columns in splits.items()}
    vocabularies = preprocessor.learn(records["train"], tokenizer or Bytes())
    tables = {}
    for split, part in records.items():
        whole = preprocessor.tokenize(part, vocabularies, Rejects())
        parts = pa.concat_tables([whole.slice(at, 2) for at in range(0, len(whole), 2)])
        tables[split] = datasets.Dataset(datasets.table.InMemoryTable(parts), fingerprint=split)
    return Corpus(vocabularies, tables, "", "", {"source": {}, "rejected": {}})


def texts_of(*parts: Sequence[str]) -> dict[str, Records]:
    return {split: {"text": list(part)} for split, part in zip(("train", "validation", "test"), parts, strict=False)}


# ------------------------------------------------------------------------------------------------------- lengths


@some
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=300))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[int]) -> None:
    found = statistics.summary(np.array(values))
    for percent in (5, 25, 50, 75, 95, 99):
        enough = [x for x in values if sum(y <= x for y in values) * 100 >= percent * len(values)]
        assert found[str(percent)] == min(enough)
    assert (found["min"], found["max"], found["total"]) == (min(values), max(values), sum(values))
    assert found["mean"] == pytest.approx(sum(values) / len(values))


def test_what_is_read_written_and_tagged_is_measured() -> None:
    text = corpus_of(LanguageModelingPreprocessor(), texts_of(["abc", "", "ab"]))
    assert {name: part["train"].tolist() for name, part in statistics.lengths(text.splits).items()} == {
        "read": [4, 1, 3]  # a begin, or an end to predict, for each
    }
    classes = corpus_of(
        ClassificationPreprocessor(), {"train": {"text": ["ab", ""], "pair": ["c", "de"], "label": ["x", "y"]}}
    )
    assert statistics.lengths(classes.splits)["read"]["train"].tolist() == [5, 4]
    tags = corpus_of(
        TaggingPreprocessor(), {"train": {"words": [["ab", "c"], [], ["d"]], "tags": [["X", "Y"], [], ["Y"]]}}
    )
    assert {name: part["train"].tolist() for name, part in statistics.lengths(tags.splits).items()} == {
        "read": [3, 0, 1],
        "words": [2, 0, 1],
    }
    pairs = corpus_of(SequenceToSequencePreprocessor(), {"train": {"source": ["ab", ""], "target": ["c", "def"]}})
    assert {name: part["train"].tolist() for name, part in statistics.lengths(pairs.splits).items()} == {
        "read": [3, 1],
        "written": [2, 4],
    }


# ---------------------------------------------------------------------------------------------------- vocabularies

written = st.text("ab é日\n", max_size=8)
several = st.lists(written, min_size=1, max_size=6)


@some
@given(several, several)
def test_tokens_of_a_vocabulary_are_counted_and_decoded(train: list[str], test: list[str]) -> None:
    corpus = corpus_of(LanguageModelingPreprocessor(), texts_of(train, test))
    found = statistics.vocabulary(corpus.splits, ("tokens",), corpus.vocabularies.tokenizer)
    assert found["size"] == 257
    known = Counter(b for text in train for b in text.encode())
    for texts, part in ((train, found["splits"]["train"]), (test, found["splits"]["validation"])):
        counts = Counter(b for text in texts for b in text.encode())
        strange = {b: n for b, n in counts.items() if b not in known}
        assert (part["tokens"], part["distinct"], part["used"]) == (counts.total(), len(counts), len(counts) / 256)
        assert part["unknown"] is None
        assert part["unseen"] == len(strange)
        assert part["unseen_share"] == (sum(strange.values()) / counts.total() if counts else 0)
        if counts:
            assert part["bytes_per_token"] == 1
            assert part["characters_per_token"] == pytest.approx(sum(map(len, texts)) / counts.total())
        words = sum(len(text.split()) for text in texts)
        assert part["tokens_per_word"] == (pytest.approx(counts.total() / words) if words else None)


def test_unknown_words_are_a_share_of_the_running_tokens() -> None:
    corpus = corpus_of(
        LanguageModelingPreprocessor(), texts_of(["a a b", "c a"], ["a d e a", "b"]), Words(min_frequency=2)
    )
    found = statistics.vocabulary(corpus.splits, ("tokens",), corpus.vocabularies.tokenizer)
    train, test = found["splits"]["train"], found["splits"]["validation"]
    assert found["size"] == 3  # end mark, unknown word, a
    assert (train["tokens"], train["unknown"]) == (5, 2 / 5)
    assert (test["tokens"], test["unknown"]) == (5, 3 / 5)
    assert (train["distinct"], train["used"]) == (2, 1.0)
    assert (train["bytes_per_token"], train["characters_per_token"], train["tokens_per_word"]) == (None, None, None)


def test_a_pair_is_decoded_part_by_part_and_both_sides_share_a_tokenizer() -> None:
    splits = {"train": {"text": ["ab", "c d"], "pair": ["éf", "g"], "label": ["x", "y"]}}
    corpus = corpus_of(ClassificationPreprocessor(), splits)
    part = statistics.text(corpus.splits["train"], ("tokens",), corpus.vocabularies.tokenizer)
    assert part == {"bytes_per_token": 1.0, "characters_per_token": 8 / 9, "tokens_per_word": 9 / 5}
    shared = corpus_of(SequenceToSequencePreprocessor(), {"train": {"source": ["ab"], "target": ["bc d"]}})
    columns = shared.splits["train"].column_names
    assert {name: of for name, (_, of) in statistics.written_by(shared.vocabularies, columns).items()} == {
        "read and written": ("tokens", "written")
    }
    tokenizer = shared.vocabularies.tokenizer
    both = statistics.vocabulary(shared.splits, ("tokens", "written"), tokenizer)["splits"]["train"]
    assert (both["tokens"], both["distinct"], both["tokens_per_word"]) == (6, 5, 2.0)
    two = corpus_of(
        SequenceToSequencePreprocessor(Words(min_frequency=1)), {"train": {"source": ["ab"], "target": ["b b c"]}}
    )
    named = statistics.written_by(two.vocabularies, columns)
    assert {name: (len(tokenizer), of) for name, (tokenizer, of) in named.items()} == {
        "read": (257, ("tokens",)),
        "written": (4, ("written",)),
    }


def test_a_large_split_is_decoded_in_rows_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DECODED_ROWS", 3)
    corpus = corpus_of(LanguageModelingPreprocessor(), texts_of(["ab", "x", "é", "x", "日"]))
    part = statistics.text(corpus.splits["train"], ("tokens",), corpus.vocabularies.tokenizer)
    assert part["characters_per_token"] == 4 / 7  # rows 0, 2 and 4


def test_words_with_an_id_of_their_own_are_covered() -> None:
    words = [["a", "b", "a"], [], ["c", "a"]]
    splits = {
        "train": {"words": words, "tags": [["X", "Y", "X"], [], ["X", "Y"]]},
        "test": {"words": [["z", "a"]], "tags": [["X", "Y"]]},
    }
    corpus = corpus_of(TaggingPreprocessor(words=5, min_frequency=2), splits)
    assert statistics.words(corpus.splits) == {
        "train": {"words": 5, "known": 3 / 5},
        "test": {"words": 2, "known": 1 / 2},
    }
    part = statistics.text(corpus.splits["train"], ("tokens",), corpus.vocabularies.tokenizer)
    assert part["tokens_per_word"] == 1.0  # of words that were given, for in decoding blanks are gone


# ---------------------------------------------------------------------------------------------------------- labels


@some
@given(st.lists(st.sampled_from("xyz?"), max_size=9), st.lists(st.sampled_from("xyz?"), min_size=1, max_size=9))
def test_classes_are_counted_and_the_majority_is_that_of_train(more: list[str], test: list[str]) -> None:
    train = ["x", "y", "z", *more]
    splits = {"train": {"text": ["t"] * len(train), "label": train}, "test": {"text": ["t"] * len(test), "label": test}}
    corpus = corpus_of(ClassificationPreprocessor(ignored=("?",)), splits)
    assert corpus.vocabularies.labels is not None
    found = statistics.labels(corpus.splits, corpus.vocabularies.labels)
    order = sorted("xyz", key=lambda name: (-train.count(name), name))
    assert found["majority"] == order[0]
    for part, labels in ((found["splits"]["train"], train), (found["splits"]["test"], test)):
        assert list(part["counts"].items()) == [(name, labels.count(name)) for name in order]
        judged = [label for label in labels if label != "?"]
        assert (part["targets"], part["ignored"]) == (len(judged), labels.count("?"))
        assert part["missing"] == [name for name in order if name not in labels]
        assert part["majority"] == (judged.count(order[0]) / len(judged) if judged else 0)


def test_any_number_of_classes_has_no_majority() -> None:
    corpus = corpus_of(
        ClassificationPreprocessor("many"), {"train": {"text": ["t"] * 4, "label": ["a,b", "", "b", "a,c,b"]}}
    )
    found = statistics.labels(corpus.splits, ("a", "b", "c"))
    assert found == {
        "majority": None,
        "splits": {
            "train": {
                "rows": 4,
                "targets": 6,
                "ignored": 0,
                "counts": {"b": 3, "a": 2, "c": 1},
                "missing": [],
                "none": 1,
                "several": 2,
            }
        },
    }


def test_numbers_are_compared_with_the_mean_of_train() -> None:
    splits = {
        "train": {"text": ["t"] * 4, "label": [1.0, 3.0, 3.0, 5.0]},
        "test": {"text": ["t"], "label": [7.0]},
    }
    found = statistics.numbers(corpus_of(ClassificationPreprocessor("number"), splits).splits)
    assert found["train"]["rmse_of_mean"] == pytest.approx(math.sqrt(8 / 4))
    assert found["test"]["rmse_of_mean"] == pytest.approx(4)
    assert (found["train"]["min"], found["train"]["50"], found["train"]["max"]) == (1, 3, 5)


TAGS = ("O", "B-a", "I-a", "B-b", "I-b", "E-b", "S-a", "?")


@some
@given(st.lists(st.lists(st.sampled_from(TAGS), max_size=7), max_size=6))
@example([["B-a"], ["I-a"], ["I-a", "?", "I-a", "O"], [], ["I-b", "B-b", "E-b"]])
def test_spans_are_those_of_reading_each_sentence(sentences: list[list[str]]) -> None:
    every = [*sentences, list(TAGS)]  # so that all are known
    splits = {"train": {"words": [["w"] * len(tags) for tags in every], "tags": every}}
    corpus = corpus_of(TaggingPreprocessor(ignored=("?",)), splits)
    assert corpus.vocabularies.labels is not None
    judged = [[tag for tag in tags if tag != "?"] for tags in every]
    expected = Counter(span.type for tags in judged for span in spans(tags))
    assert statistics.spans(corpus.splits, corpus.vocabularies.labels) == {"train": {t: expected[t] for t in "ab"}}


# --------------------------------------------------------------------------------------------- batches and padding


def loader_of(
    preprocessor: Preprocessor, records: Records, tokens: int, seed: int | None = 1, **options: Any
) -> PlannedLoader:
    table = corpus_of(preprocessor, {"train": records}).splits["train"]
    return PlannedLoader(Examples(table, tokens, preprocessor.policies[0]), tokens, 2, seed, **options)


@some
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30),
    st.integers(27, 60),
    st.booleans(),
)
def test_batches_and_padding_are_those_of_the_loader(sizes: list[tuple[int, int]], tokens: int, pairs: bool) -> None:
    if pairs:
        records = {"source": ["s" * a for a, _ in sizes], "target": ["t" * b for _, b in sizes]}
        loader = loader_of(SequenceToSequencePreprocessor(), records, tokens)
    else:
        loader = loader_of(
            LanguageModelingPreprocessor(), {"text": ["x" * 5 * a for a, _ in sizes]}, tokens
        )  # some are split
    read = list(loader.batches(0))
    found = statistics.batches(loader)
    per_batch = {"tokens": [batch.num_tokens for batch in read], "sequences": [len(batch) for batch in read]}
    assert found["batches"] == len(read)
    assert found["fill"] == pytest.approx(sum(per_batch["tokens"]) / len(read) / tokens)
    for name, values in per_batch.items():
        mean = pytest.approx(sum(values) / len(values))
        assert found[name] == {"mean": mean, "min": min(values), "max": max(values)}
    padded = statistics.padding(loader)
    cells = sum(len(layout) * layout.longest for batch in read for layout in batch.layouts)
    total = sum(per_batch["tokens"])
    assert padded["tokens"] == total
    assert padded["ours"] == {"cells": cells, "share": pytest.approx(1 - total / cells), "times": cells / total}
    assert padded["sequences"] == max(1, round(len(loader.examples) / len(read)))
    # What is read of an example on each side, by its number: the batches have it.
    by_number = {}
    for batch in read:
        sides = [layout.lengths.tolist() for layout in batch.layouts]
        by_number |= dict(zip(batch.ids.tolist(), zip(*sides, strict=True), strict=True))
    sides = [side.tolist() for side in loader.examples.sides]
    assert list(zip(*sides, strict=True)) == [by_number[i] for i in range(len(by_number))]
    # Other batches, made by hand of the same shuffled examples.
    order = np.random.default_rng(0).permutation(len(by_number)).tolist()
    at_random = _cells(order, padded["sequences"], by_number)
    pool = 50 * padded["sequences"]
    in_pools = [order[at : at + pool] for at in range(0, len(order), pool)]
    in_order = [i for part in in_pools for i in sorted(part, key=lambda i: [-n for n in by_number[i]])]
    assert padded["random"]["cells"] == at_random
    assert padded["grouped"]["cells"] == _cells(in_order, padded["sequences"], by_number)


def _cells(order: list[int], number: int, sizes: dict[int, tuple[int, ...]]) -> int:
    batches = [[sizes[i] for i in order[at : at + number]] for at in range(0, len(order), number)]
    return sum(len(batch) * max(side) for batch in batches for side in zip(*batch, strict=True))


def test_pools_are_sorted_one_by_one() -> None:
    drawn = random.Random(0)
    texts = ["x" * drawn.randint(0, 40) for _ in range(500)]
    loader = loader_of(LanguageModelingPreprocessor(), {"text": texts}, 82)
    found = statistics.padding(loader)
    sizes = {i: (len(text) + 1,) for i, text in enumerate(texts)}
    order, pool = np.random.default_rng(0).permutation(500).tolist(), 50 * found["sequences"]
    assert 1 < 500 / pool < 5
    in_pools = [order[at : at + pool] for at in range(0, 500, pool)]
    in_order = [i for part in in_pools for i in sorted(part, key=lambda i: -sizes[i][0])]
    assert found["grouped"]["cells"] == _cells(in_order, found["sequences"], sizes)
    assert found["ours"]["times"] < found["random"]["times"]
    assert found["grouped"]["times"] < found["random"]["times"]
    assert statistics.padding(loader) == found


def test_sequences_without_tokens_pay_nothing() -> None:
    records = {"words": [["a"], ["b"]], "tags": [["X"], ["Y"]]}
    corpus = corpus_of(TaggingPreprocessor(), {"train": records, "test": {"words": [[], []], "tags": [[], []]}})
    loader = PlannedLoader(Examples(corpus.splits["test"], 9), 9, 2, None)
    nothing = {"cells": 0, "share": 0.0, "times": 1.0}
    assert statistics.padding(loader) == {
        "tokens": 0, "sequences": 2, "random": nothing, "grouped": nothing, "ours": nothing,
    }  # fmt: skip
    assert statistics.batches(loader)["fill"] == 0
    assert statistics.lengths(corpus.splits)["read"]["test"].tolist() == [0, 0]


def test_the_first_batches_alone_are_counted() -> None:
    texts = ["x" * n for n in range(30)]
    loader = loader_of(LanguageModelingPreprocessor(), {"text": texts}, 40, first_batches=2)
    assert statistics.batches(loader)["batches"] == 2
    chosen = [n + 1 for n in loader.plan(0).order.tolist()]
    assert len(chosen) < 30
    assert statistics.padding(loader)["tokens"] == sum(chosen)


# ------------------------------------------------------------------------------------------------------ repetition


@some
@given(several, several, several)
def test_rows_that_read_the_same_are_found(train: list[str], validation: list[str], test: list[str]) -> None:
    found = statistics.repeated(corpus_of(LanguageModelingPreprocessor(), texts_of(train, validation, test)).splits)
    for split, texts in (("train", train), ("validation", validation), ("test", test)):
        again = sum(text in texts[:i] for i, text in enumerate(texts))
        assert (found[split]["within"], found[split]["within_share"]) == (again, again / len(texts))
        if split != "train":
            leaked = sum(text in train for text in texts)
            assert (found[split]["in_train"], found[split]["in_train_share"]) == (leaked, leaked / len(texts))


def test_what_is_read_counts_and_not_what_is_answered() -> None:
    pairs = {"train": {"source": ["a"], "target": ["x"]}, "test": {"source": ["a", "b"], "target": ["y", "x"]}}
    assert statistics.repeated(corpus_of(SequenceToSequencePreprocessor(), pairs).splits)["test"]["in_train"] == 1
    tagged = {
        "train": {"words": [["ab", "c"]], "tags": [["X", "Y"]]},
        "test": {"words": [["a", "bc"], ["ab", "c"]], "tags": [["X", "Y"], ["Y", "Y"]]},
    }
    assert statistics.repeated(corpus_of(TaggingPreprocessor(), tagged).splits)["test"]["in_train"] == 1
