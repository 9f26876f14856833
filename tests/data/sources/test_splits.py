"""No record in two splits, none lost; every row has the fields of the first."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data.rejects import Rejects
from seqlab.data.sources.source import SPLITS, split_of
from seqlab.data.sources.splits import tables
from seqlab.errors import InputError

SETTINGS = {"train": "data.path", "validation": "data.validation", "test": "data.test"}
HELD_OUT = {split: [("held out", {"text": split})] for split in ("validation", "test")}


def read(*values: dict[str, Any], rejects: Rejects | None = None) -> list[dict[str, Any]]:
    held_out = [("held out", values[0])]
    given = {"train": [(f"row {i}", row) for i, row in enumerate(values)], "validation": held_out, "test": held_out}
    return tables(given, rejects or Rejects(), SETTINGS)["train"].to_pylist()


ROWS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), min_size=0, max_size=3000)


@given(ROWS)
def test_what_reads_the_same_stays_together_and_nothing_is_lost(drawn: list[tuple[int, str]]) -> None:
    rows = [(i, label) for i in range(80) for label in "ab"] + drawn
    records = [(f"row {i}", {"text": f"text {number}", "label": label}) for i, (number, label) in enumerate(rows)]
    splits = tables({"train": records}, Rejects(), SETTINGS)
    slow: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for origin, values in records:
        slow[split_of(values["text"])].append({**values, "origin": origin})
    assert {split: table.to_pylist() for split, table in splits.items()} == slow


def test_a_split_that_is_given_is_not_cut() -> None:
    records = [(f"row {i}", {"text": f"text {i}"}) for i in range(300)]
    splits = tables({"train": records, "test": [("mine", {"text": "text 7"})]}, Rejects(), SETTINGS)
    assert splits["test"]["text"].to_pylist() == ["text 7"]
    assert splits["validation"]["text"].to_pylist() == [
        values["text"] for _, values in records if split_of(values["text"]) == "validation"
    ]
    assert len(splits["train"]) + len(splits["validation"]) == 300


def test_a_pair_and_words_count_as_what_is_read() -> None:
    both = [{"text": "t", "pair": f"p {i}", "label": "x"} for i in range(100)]
    words = [{"words": ["w", f"w{i}"], "tags": ["A", "B"]} for i in range(100)]
    for rows in (both, words):
        splits = tables({"train": [("", row) for row in rows]}, Rejects(), SETTINGS)
        assert 2 < len(splits["test"]) < 30


def test_types_of_columns() -> None:
    rows = [("o", {"origin": "o", "words": "a b", "tags": ["x", 1], "label": ["l", True]}) for _ in range(1001)]
    rows = [(origin, {key: row[key] for key in ("tags", "words", "label")}) for origin, row in rows]
    strings = pa.list_(pa.string())
    for table in tables(dict.fromkeys(SPLITS, rows), Rejects(), SETTINGS).values():
        assert table.schema == pa.schema({"label": strings, "words": strings, "tags": strings, "origin": pa.string()})
        assert table.to_pylist() == 1001 * [
            {"label": ["l", "true"], "words": ["a", "b"], "tags": ["x", "1"], "origin": "o"}
        ]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"text": "a", "label": "x"}, {"text": "b"}, "no label"),
        ({"text": "a"}, {"text": "b", "label": "x"}, "unexpected label"),
        ({"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}, "label of wrong type"),
        ({"text": "a", "label": []}, {"text": "b", "label": "x"}, "label of wrong type"),
    ],
)
def test_every_row_is_like_the_first(first: dict[str, Any], second: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=r"^row 1: .*the first record"):
        read(first, second)
    rejects = Rejects("skip", 1)
    assert [row["origin"] for row in read(first, second, first, rejects=rejects)] == ["row 0", "row 2"]
    assert rejects.counts == {reason: 1}


def test_empty_splits() -> None:
    with pytest.raises(InputError, match=r"nothing for validation: data\.path has 1 record, of.*data\.validation="):
        tables({"train": [("", {"text": "a"})]}, Rejects(), SETTINGS)
    with pytest.raises(InputError, match=r"nothing for test: .*data\.test="):
        tables({**HELD_OUT, "train": [("", {"text": "a"})], "test": []}, Rejects(), SETTINGS)


def test_too_many_rejects_are_told_before_an_empty_split() -> None:
    with pytest.raises(InputError, match=r"1 of 1 rows cannot be used \(empty text: 1\), the first of them here"):
        tables({"train": [("here", {"text": ""})]}, Rejects("skip"), SETTINGS)


def test_each_split_has_its_share_of_rejects() -> None:
    rows = [(f"row {i}", {"text": str(i)}) for i in range(100)]
    spoilt = [("here", {"text": ""}), ("there", {"text": "a"})]
    with pytest.raises(InputError, match=r"in validation, 1 of 2 rows cannot be used .* the first of them here"):
        tables({"train": rows, "validation": spoilt, "test": rows}, Rejects("skip"), SETTINGS)
