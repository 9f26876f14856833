"""Tables of a corpus fit into 100 columns, however large it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from seqlab.cli.corpus_tables import tables
from seqlab.data.statistics import PERCENTILES

SPLITS = ("train", "validation", "test")


def figures(large: int) -> dict[str, Any]:
    """Of every form at once, all counts as large as given."""

    def each(part: dict[str, Any]) -> dict[str, Any]:
        return {split: part for split in SPLITS}

    summary: dict[str, Any] = dict.fromkeys([*map(str, PERCENTILES), "max"], min(large, 99_999))
    summary |= {"min": 1, "5": 99, "25": 999, "mean": 12345.67, "total": large, "rmse_of_mean": 1.234567e-8}
    vocabulary = {"tokens": large, "distinct": 250_000, "used": 1.0, "unknown": 1.0, "unseen": 123_456}
    vocabulary |= {"unseen_share": 0.999, "bytes_per_token": 12.34, "characters_per_token": 12.34}
    extent = {"mean": float(min(large, 999_999)), "min": 0, "max": min(large, 999_999)}
    way = {"share": 0.999, "times": 123.4}
    labels = {"rows": large, "targets": large, "ignored": 3, "counts": dict.fromkeys("abc", large), "missing": []}
    rows = ("rows", "tokens", "over_long_rows", "over_long_tokens", "lost_tokens", "examples")
    twice = {"within": large, "within_share": 1.0, "in_train": large, "in_train_share": 1.0}
    return {
        "rejected": {},
        "rows": each(dict.fromkeys(rows, large)),
        "lengths": {"read": each(summary), "written": each(summary)},
        "vocabulary": {
            name: {"size": 250_000, "splits": each({**vocabulary, "tokens_per_word": 12.3})}
            for name in ("read", "written")
        },
        "words": each({"words": large, "known": 1.0}),
        "labels": {"majority": "a", "splits": each({**labels, "majority": 1.0})},
        "numbers": each(summary),
        "spans": each({"person": large, "": 0}),
        "batches": each({"batches": large, "tokens": extent, "sequences": extent, "fill": 1.0}),
        "padding": each({"sequences": large, "random": way, "grouped": way, "ours": way}),
        "repeated": each(twice),
    }


@pytest.mark.parametrize("large", [0, 9_999_999, 9_876_543_210])
def test_no_number_is_broken_within_100_columns(large: int) -> None:
    batching = {"tokens": 262_144, "max_length": 262_144, "over_long": "truncate"}
    shown = list(tables(figures(large), batching))
    assert len(shown) == 10
    for table in shown:
        file = io.StringIO()
        Console(file=file, width=100).print(table.rich())
        lines = file.getvalue().splitlines()
        assert max(map(len, lines)) <= 100
        for row in table.rows:
            cells = [cell for cell in row if cell]
            assert any("".join(line.split()) == "".join("".join(cells).split()) for line in lines), row


def test_a_share_is_neither_rounded_to_none_nor_to_all() -> None:
    found = figures(5)
    for split, known in zip(SPLITS, (0.0001, 0.9999, 0.5), strict=True):
        found["words"] = {**found["words"], split: {"words": 5, "known": known}}
    (table,) = (
        table
        for table in tables(found, {"tokens": 9, "max_length": 9, "over_long": "drop"})
        if table.title == "Words with an id of their own"
    )
    assert [row[-1] for row in table.rows] == ["< 0.1 %", "> 99.9 %", "50.0 %"]
