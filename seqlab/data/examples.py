"""Rows of a prepared table as examples, and batches of them.

A table says by its columns what an example is:

    tokens            language modelling: all but the last are read, all but the first are predicted
    tokens, targets   what is read, and what it is answered with: classes, numbers, or a tag per word
    tokens, written   what is read, and what is written: all but its last are a decoder's `prefix`, all but its first
                      its targets
    length, bytes     how many tokens are read, and how many bytes of text the targets stand for
    any other         a further input, one of the batch's `extras`

An example is (row, start, length): a row of the table or, where a row of text was too long, a piece of one. What is
shifted is shifted inside the row, so that nothing leaks from one sequence into the next. All are slices of Arrow's own
buffers; joining those of a batch is the only copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from seqlab.data.batch import Batch
from seqlab.data.plan import Plan, make_plan
from seqlab.errors import DataError, InputError, counted, did_you_mean
from seqlab.ragged import Layout, Ragged

Numbers = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]

_NO_ROWS = np.zeros(0, np.int64)
_POLICIES = ("error", "truncate", "split", "drop")


class Rows(NamedTuple):
    """A batch before it is tensors: what a loader's worker sends, for arrays go through a pipe at less cost.

    columns  values and lengths by name: "tokens", "targets" and extras
    """

    columns: dict[str, tuple[Numbers, Int64s]]
    ids: Int64s
    num_bytes: Int64s

    def batch(self) -> Batch:
        layouts: dict[int, Layout] = {}  # columns that share their lengths share the layout
        columns = {}
        for name, (values, lengths) in self.columns.items():
            layout = layouts.setdefault(id(lengths), Layout(torch.from_numpy(lengths)))
            tensor = torch.from_numpy(values)
            columns[name] = Ragged(tensor if tensor.is_floating_point() else tensor.long(), layout)
        tokens, targets = columns.pop("tokens"), columns.pop("targets")
        return Batch(tokens, targets, torch.from_numpy(self.ids), torch.from_numpy(self.num_bytes), columns)


class Examples:
    """The examples of a split, in the order of its rows.

    Args:
        table: as above.
        max_length: the most tokens an example may have; None: no limit.
        over_long: what becomes of a longer row. "error" refuses it, "truncate" keeps its first tokens, "split" makes
            consecutive pieces that together predict every token once, "drop" leaves it out. Text alone can be split,
            and truncated, as can the text of a class; where every token, or every word, has a target of its own that
            nothing else has, to cut would lose some.

    Attributes:
        lengths: [E] int64, the tokens that are read of each example.
        report: rows and tokens of the table, how many were over-long, and how many tokens were lost.
        alone: how many examples, the first ones, are read without others before them: all.

    Raises:
        InputError: a row is too long under "error", "drop" leaves nothing, or an argument is out of range.
        DataError: the table is damaged.
    """

    def __init__(self, table: datasets.Dataset, max_length: int | None = None, over_long: str = "error") -> None:
        if over_long not in _POLICIES:
            raise InputError(
                f"batch.over_long={over_long} is not {' or '.join(_POLICIES)}{did_you_mean(over_long, _POLICIES)}"
            )
        if max_length is not None and max_length < 1:
            raise InputError(f"batch.max_length={max_length} leaves no token: give at least 1, or null for no limit")
        self._table = table
        self.max_length, self.over_long = max_length, over_long
        stored = _stored_rows(table)
        lengths, sizes = _numbers(table, "length"), _numbers(table, "bytes")
        self._names = [name for name in table.column_names if name not in ("length", "bytes")]
        self._is_text = "targets" not in self._names and "written" not in self._names
        read = self._columns["tokens"].sizes - (1 if self._is_text else 0)
        if "written" in self._names:
            read = read + self._columns["written"].sizes - 1
        if not np.array_equal(lengths, read) or lengths.min(initial=0) < 0:
            raise DataError("the table of tokens is damaged: its column `length` does not fit its column `tokens`")
        lengths, sizes = lengths[stored], sizes[stored]

        limit = max_length or int(lengths.max(initial=1))
        long = lengths > limit
        if over_long == "error" and long.any():
            row = int(lengths.argmax())
            ways = "split, truncate or drop" if self._is_text else "drop"
            if not self._is_text and not {"pieces", "written"} & set(self._names):
                ways = "truncate or drop"
            raise InputError(
                f"row {row} has {lengths[row]} tokens, the limit is {limit} ({long.sum()} of "
                f"{counted(len(long), 'row')} above it): raise batch.tokens or batch.max_length, or set "
                f"batch.over_long={ways}"
            )
        if over_long == "drop" and long.any() and long.all():
            raise InputError(
                f"batch.over_long=drop leaves nothing: of {counted(len(long), 'row')} none has at most "
                f"{counted(limit, 'token')}; raise batch.tokens or batch.max_length"
                f"{', or set batch.over_long=split' if self._is_text else ''}"
            )
        pieces = np.ones_like(lengths)
        if over_long == "drop":
            pieces[long] = 0
        elif over_long == "split":
            pieces[long] = -(-lengths[long] // limit)
        row_E = np.repeat(np.arange(len(lengths)), pieces)
        self._rows = stored[row_E]
        self._starts = (np.arange(len(row_E)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * limit
        self.lengths: Int64s = np.minimum(lengths[row_E] - self._starts, limit)
        self._bytes = _shares(sizes[row_E], self._starts, self._starts + self.lengths, lengths[row_E])
        self.report = {
            "rows": len(lengths),
            "tokens": int(lengths.sum()),
            "over_long_rows": int(long.sum()),
            "over_long_tokens": int(lengths[long].sum()),
            "lost_tokens": int(lengths.sum() - self.lengths.sum()),
        }
        self.alone = len(self)

    def __len__(self) -> int:
        """E, the number of examples."""
        return len(self.lengths)

    def batch(self, indices: Sequence[int] | Int64s) -> Batch:
        """The chosen examples, longest first (equal ones as given). Their numbers are the batch's ids.

        Where something is written, what is written longest comes first, and among equals what is read longest.
        """
        return self.read(indices).batch()

    def read(self, indices: Sequence[int] | Int64s) -> Rows:
        """The same batch before it is tensors."""
        indices = np.asarray(indices, np.int64)
        rows, columns = self._rows[indices], self._columns
        if "written" in columns:
            ids = indices[np.lexsort((-columns["tokens"].sizes[rows], -columns["written"].sizes[rows]))]
        else:
            ids = indices[np.argsort(-self.lengths[indices], kind="stable")]
        rows, starts, lengths = self._rows[ids], self._starts[ids], self.lengths[ids]
        read: dict[str, tuple[Numbers, Int64s]] = {}
        for name, column in columns.items():
            if name == "written" or self._is_text:
                sizes = lengths if self._is_text else column.sizes[rows] - 1
                before, after = column.shifted(rows, starts, sizes)
                read |= {"tokens" if self._is_text else "prefix": (before, sizes), "targets": (after, sizes)}
            else:
                sizes = lengths if name == "tokens" and "written" not in columns else column.sizes[rows]
                read[name] = column.slices(rows, starts, sizes), sizes
        return Rows(read, ids, self._bytes[ids])

    def pieces(self, examples: Int64s, starts: Int64s, ends: Int64s) -> tuple[Numbers, Numbers, Int64s]:
        """Of text alone, tokens starts : ends of each of the examples, one after the other: what is read of them [T],
        what is predicted [T], and how many bytes that stands for in each."""
        rows, first = self._rows[examples], self._starts[examples]
        tokens, targets = self._columns["tokens"].shifted(rows, first + starts, ends - starts)
        return tokens, targets, _shares(self._bytes[examples], starts, ends, self.lengths[examples])

    def plan(self, tokens: int, pool: int, seed: int | None, epoch: int) -> Plan:
        """Which examples form which batch; see `make_plan`."""
        return make_plan(self.lengths, tokens, pool, seed, epoch)

    @cached_property
    def sides(self) -> list[Int64s]:
        """What is read token by token, as `Batch.layouts`: [E] tokens, and where something is written [E] its prefix.

        They add up to `lengths`.
        """
        if "written" not in self._names:
            return [self.lengths]
        return [self._columns["tokens"].sizes[self._rows], self._columns["written"].sizes[self._rows] - 1]

    @cached_property
    def _columns(self) -> dict[str, _ListColumn]:
        columns = {name: _column(self._table, name) for name in ("tokens", *self._names)}
        return {name: _ListColumn(column, name) for name, column in columns.items()}

    def __getstate__(self) -> dict[str, Any]:
        """A memory-mapped table travels to a worker as the path of its file; views into it are taken anew there."""
        return {name: value for name, value in self.__dict__.items() if name != "_columns"}


class _ListColumn:
    """A column of lists of numbers as numpy views of its chunks' values, and where in them every stored row lies.

    With chunks of 2 rows and of 1, sizes [3, 1 | 2]: first_rows = [0, 2], starts = [0, 3, 0].
    """

    def __init__(self, column: pa.ChunkedArray, name: str) -> None:
        numeric = pa.types.is_list(column.type) and column.type.value_type in (pa.int32(), pa.float32())
        if not numeric or (name == "tokens" and column.type.value_type != pa.int32()):
            raise DataError(f"the table of tokens is damaged: its column `{name}` is {column.type}, not list<int32>")
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        # A slice of a table shares the values of the whole, and its offsets, int32, count from the start of those.
        self._values: list[Numbers] = [chunk.values.to_numpy() for chunk in chunks]
        self._none = np.zeros(0, column.type.value_type.to_pandas_dtype())  # joining no arrays at all needs a type
        offsets = [chunk.offsets.to_numpy().astype(np.int64) for chunk in chunks]
        self._first_rows = np.cumsum([0, *(len(chunk) for chunk in chunks[:-1])])
        self._starts: Int64s = np.concatenate([_NO_ROWS, *(offset[:-1] for offset in offsets)])
        self.sizes: Int64s = np.concatenate([_NO_ROWS, *(np.diff(offset) for offset in offsets)])

    def slices(self, rows: Int64s, starts: Int64s, lengths: Int64s) -> Numbers:
        """`lengths` values of each row from `starts` on, one after the other: [T]."""
        chunks = np.searchsorted(self._first_rows, rows, side="right") - 1
        first = self._starts[rows] + starts
        bounds = zip(chunks.tolist(), first.tolist(), (first + lengths).tolist(), strict=True)
        return np.concatenate([self._none, *(self._values[chunk][begin:end] for chunk, begin, end in bounds)])

    def shifted(self, rows: Int64s, starts: Int64s, lengths: Int64s) -> tuple[Numbers, Numbers]:
        """`lengths` values of each row from `starts` on, and as many from one further on: [T] each."""
        joined = self.slices(rows, starts, lengths + 1)
        last = np.cumsum(lengths + 1) - 1
        return np.delete(joined, last), np.delete(joined, last - lengths)


def _shares(sizes: Int64s, starts: Int64s, ends: Int64s, lengths: Int64s) -> Int64s:
    """How many bytes tokens starts : ends stand for, of `sizes` in all: differences of rounded running shares, which
    add up exactly."""
    whole = np.maximum(lengths, 1)
    shares: Int64s = sizes * ends // whole - sizes * starts // whole
    return shares


def _stored_rows(table: datasets.Dataset) -> Int64s:
    """The stored row of every row: a table that was shuffled, or cut to some of its rows, holds a list of them."""
    if table._indices is None:
        return np.arange(len(table))
    stored: Int64s = table._indices.column(0).to_numpy().astype(np.int64)
    return stored


def _column(table: datasets.Dataset, name: str) -> pa.ChunkedArray:
    try:
        column = table.data.column(name)
    except KeyError as error:
        raise DataError(f"the table of tokens is damaged: it has no column `{name}`") from error
    if column.null_count:
        raise DataError(f"the table of tokens is damaged: column `{name}` has {column.null_count} rows without a value")
    return column


def _numbers(table: datasets.Dataset, name: str) -> Int64s:
    numbers: Int64s = _column(table, name).to_numpy().astype(np.int64)
    return numbers
