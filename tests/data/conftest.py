"""Small tables, made without a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest

MakeTable = Callable[..., datasets.Dataset]


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    datasets.disable_progress_bars()


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """A table as `corpus.py` describes it, of rows with the given lengths; tokens count up: row 0 is 0 1 2 ..."""

    def make(lengths: Sequence[int], sizes: Sequence[int] | None = None, on_disk: bool = False) -> datasets.Dataset:
        ends = np.cumsum(np.asarray(lengths) + 1) if len(lengths) else []
        rows = [list(range(end - length - 1, end)) for length, end in zip(lengths, ends, strict=True)]
        features = datasets.Features(
            tokens=datasets.List(datasets.Value("int32")), length=datasets.Value("int64"), bytes=datasets.Value("int64")
        )
        columns = {"tokens": rows, "length": list(lengths), "bytes": list(sizes or [3 * n for n in lengths])}
        table = datasets.Dataset.from_dict(columns, features=features)
        if on_disk:
            table.save_to_disk(tmp_path / "table")
            table = datasets.Dataset.load_from_disk(tmp_path / "table")
        return table

    return make
