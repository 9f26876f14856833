"""Shifted inside each row, nothing lost, nothing leaked, whatever Arrow's chunks and whatever the policy."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples
from seqlab.errors import DataError, InputError

LENGTHS = [3, 1, 7, 1, 12, 3, 5, 0, 9]
MakeTable = Callable[..., datasets.Dataset]
# The fixture makes tables and keeps nothing, so that one of it may serve many examples.
some = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pairs(batch: Batch) -> list[tuple[list[int], list[int]]]:
    return [(x.tolist(), y.tolist()) for x, y in zip(batch.tokens.to_list(), batch.targets.to_list(), strict=True)]


def chunked(table: datasets.Dataset, sizes: list[int]) -> datasets.Dataset:
    """The same rows in chunks of these sizes; each is a slice, so that its offsets do not start at 0."""
    whole = table.data.table.combine_chunks()
    bounds = np.cumsum([0, *sizes])
    parts = [whole.slice(start, size) for start, size in zip(bounds, sizes, strict=False)]
    return datasets.Dataset(datasets.table.InMemoryTable(pa.concat_tables(parts)), fingerprint="chunked")


def replaced(table: datasets.Dataset, name: str, column: Any) -> datasets.Dataset:
    whole = table.data.table
    whole = whole.set_column(whole.column_names.index(name), name, column)
    return datasets.Dataset(datasets.table.InMemoryTable(whole), fingerprint="replaced")


@some
@given(indices=st.lists(st.integers(0, len(LENGTHS) - 1), max_size=20))
def test_batches_are_shifted_rows_longest_first(indices: list[int], make_table: MakeTable) -> None:
    table = make_table(LENGTHS)
    batch = Examples(table).batch(indices)
    assert batch.ids.tolist() == sorted(indices, key=lambda i: -LENGTHS[i])  # sorted() keeps the order of equal ones
    rows = [table[i]["tokens"] for i in batch.ids.tolist()]
    assert pairs(batch) == [(row[:-1], row[1:]) for row in rows]
    assert batch.num_bytes.tolist() == [3 * LENGTHS[i] for i in batch.ids.tolist()]
    assert {batch.tokens.values.dtype, batch.targets.values.dtype, batch.ids.dtype, batch.num_bytes.dtype} == {
        torch.int64
    }


@pytest.mark.parametrize("kind", ["chunks", "empty chunk", "shuffled", "selected", "on disk", "all of it"])
def test_rows_are_found_in_any_kind_of_table(kind: str, make_table: MakeTable) -> None:
    table = make_table(LENGTHS, on_disk=kind in ("on disk", "all of it"))
    if kind in ("chunks", "all of it"):
        table = chunked(table, [2, 1, 4, 2])
    if kind == "empty chunk":
        table = chunked(table, [0, 4, 0, 5, 0])
    if kind in ("shuffled", "all of it"):
        table = table.shuffle(seed=3)
    if kind in ("selected", "all of it"):
        table = table.select([5, 2, 2, 0])
    examples = Examples(table)
    assert examples.lengths.tolist() == table["length"][:]
    batch = examples.batch(range(len(table)))
    rows = [table[i]["tokens"] for i in batch.ids.tolist()]
    assert pairs(batch) == [(row[:-1], row[1:]) for row in rows]
    assert batch.num_bytes.tolist() == [table[i]["bytes"] for i in batch.ids.tolist()]


def test_a_batch_of_none(make_table: MakeTable) -> None:
    assert len(Examples(make_table(LENGTHS)).batch([])) == 0
    assert len(Examples(make_table([]))) == 0


@some
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20), limit=st.integers(1, 15), data=st.data())
def test_split_predicts_every_token_once(
    lengths: list[int], limit: int, data: st.DataObject, make_table: MakeTable
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 200), min_size=len(lengths), max_size=len(lengths)))
    sizes = [size if length else 0 for size, length in zip(sizes, lengths, strict=True)]
    table = make_table(lengths, sizes)
    examples = Examples(table, limit, "split")
    assert examples.lengths.max(initial=0) <= limit
    batches = [examples.batch([i]) for i in range(len(examples))]
    inputs = [token for batch in batches for token in batch.tokens.values.tolist()]
    targets = [token for batch in batches for token in batch.targets.values.tolist()]
    assert inputs == [token for row in table["tokens"] for token in row[:-1]]
    assert targets == [token for row in table["tokens"] for token in row[1:]]
    row = np.repeat(np.arange(len(lengths)), [max(1, -(-length // limit)) for length in lengths])
    assert np.bincount(row, examples._bytes).tolist() == sizes
    assert min(examples._bytes) >= 0
    long = [length for length in lengths if length > limit]
    assert examples.report == {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "over_long_rows": len(long),
        "over_long_tokens": sum(long),
        "lost_tokens": 0,
    }


def test_pieces_share_the_bytes_evenly(make_table: MakeTable) -> None:
    examples = Examples(make_table([10], [25]), 4, "split")
    assert examples.lengths.tolist() == [4, 4, 2]
    assert examples._bytes.tolist() == [10, 10, 5]


def test_truncate(make_table: MakeTable) -> None:
    table = make_table(LENGTHS)
    examples = Examples(table, 5, "truncate")
    assert examples.lengths.tolist() == [3, 1, 5, 1, 5, 3, 5, 0, 5]
    batch = examples.batch([4])
    assert pairs(batch) == [(table[4]["tokens"][:5], table[4]["tokens"][1:6])]
    assert batch.num_bytes.tolist() == [15]  # of 12 tokens and 36 bytes
    assert examples.report["over_long_rows"] == 3
    assert examples.report["over_long_tokens"] == 7 + 12 + 9
    assert examples.report["lost_tokens"] == 2 + 7 + 4


def test_drop(make_table: MakeTable) -> None:
    table = make_table(LENGTHS)
    examples = Examples(table, 5, "drop")
    assert examples.lengths.tolist() == [3, 1, 1, 3, 5, 0]
    assert pairs(examples.batch([4])) == [(table[6]["tokens"][:-1], table[6]["tokens"][1:])]
    assert examples.report["lost_tokens"] == 7 + 12 + 9
    with pytest.raises(InputError, match=r"over_long=drop leaves nothing: of 2 rows none has at most 5 tokens"):
        Examples(make_table([6, 7]), 5, "drop")


def test_error_names_the_row(make_table: MakeTable) -> None:
    with pytest.raises(
        InputError,
        match=r"row 4 has 12 tokens, the limit is 8 \(2 of 9 .*batch\.tokens or batch\.max_length.*over_long=",
    ):
        Examples(make_table(LENGTHS), 8)
    assert len(Examples(make_table(LENGTHS), 12)) == 9


@pytest.mark.parametrize("policy", ["error", "truncate", "split", "drop"])
def test_without_a_limit_nothing_happens(policy: str, make_table: MakeTable) -> None:
    examples = Examples(make_table(LENGTHS), None, policy)
    assert examples.lengths.tolist() == LENGTHS
    assert examples.report["over_long_rows"] == examples.report["lost_tokens"] == 0


def test_wrong_arguments(make_table: MakeTable) -> None:
    with pytest.raises(InputError, match=r"batch\.over_long=trunkate .*did you mean truncate"):
        Examples(make_table(LENGTHS), 3, "trunkate")
    with pytest.raises(InputError, match=r"batch\.max_length=0"):
        Examples(make_table(LENGTHS), 0)


def test_a_damaged_table(make_table: MakeTable) -> None:
    table = make_table(LENGTHS)
    tokens = table.data.column("tokens").combine_chunks()
    offsets = tokens.offsets.to_numpy().copy()
    offsets[3] = 10**6
    past_the_end = pa.Array.from_buffers(
        tokens.type, len(tokens), [None, pa.py_buffer(offsets)], children=[tokens.values]
    )
    damaged = [
        replaced(table, "length", pa.array([*LENGTHS[:-1], 8])),
        replaced(table, "length", pa.array([*LENGTHS[:-1], None], pa.int64())),
        replaced(table, "tokens", past_the_end),
        replaced(table, "tokens", tokens.cast(pa.list_(pa.int64()))),
        replaced(table, "tokens", table.data.column("length")),
        replaced(make_table([2]), "tokens", pa.array([None], pa.list_(pa.int32()))),
        table.remove_columns("bytes"),
    ]
    for table in damaged:
        with pytest.raises(DataError, match="table of tokens is damaged"):
            Examples(table)


def test_pickles_as_the_path_of_a_file(make_table: MakeTable) -> None:
    table = make_table([2000] * 20, on_disk=True)
    examples = Examples(table)
    expected = pairs(examples.batch([3, 17]))
    pickled = pickle.dumps(examples)
    assert len(pickled) < 10_000 < 20 * 2000 * 4
    assert pairs(pickle.loads(pickled).batch([3, 17])) == expected


def test_a_batch_does_not_share_memory_with_the_table(make_table: MakeTable) -> None:
    examples = Examples(make_table([3]))
    before = pairs(examples.batch([0]))
    examples.batch([0]).tokens.values.fill_(7)
    assert pairs(examples.batch([0])) == before
