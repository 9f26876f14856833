"""Parquet files, and the rows of any other table of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from seqlab.data.records import BY_FIELD, Columns, Record
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.record_files import RecordFiles
from seqlab.errors import InputError

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class ParquetFiles(RecordFiles):
    """Parquet files; see `RecordFiles`. The integers of classes whose names a file knows become these names.

    columns  the column of each field; one inside a column of objects as `translation.en`

    Raises:
        InputError: on reading, a file is no Parquet file, or a column that is named is not there.
    """

    columns: Columns = BY_FIELD

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        try:
            with pq.ParquetFile(file) as parquet:
                schema = parquet.schema_arrow
                described = b"huggingface" in (
                    schema.metadata or {}
                )  # by `datasets`, which knows fewer types than Arrow
                features = datasets.Features.from_arrow_schema(schema).flatten() if described else {}
                batches = (pa.Table.from_batches([batch]) for batch in parquet.iter_batches(ROWS_AT_ONCE))
                yield from rows(batches, schema, features, self.columns, str(file))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read as Parquet: {error}; see data.path=") from error


def rows(
    batches: Iterable[pa.Table], schema: pa.Schema, features: Mapping[str, Any], columns: Columns, where: str
) -> Iterator[Record]:
    """The records of a table that comes in parts.

    Args:
        batches: the parts.
        schema: of every part.
        features: those of `datasets`, flat, by column; they say which integers are classes.
        columns: which columns to read.
        where: the beginning of every origin.

    Raises:
        InputError: a column that is named is not there.
    """
    try:
        chosen = columns.choose(_flat(schema.empty_table()).column_names)
    except Unusable as problem:
        raise InputError(f"{where}: {problem.message}") from None
    names = [_named(features.get(column)) for column in chosen.values()]
    number = count(1)
    for batch in map(_flat, batches):
        values = [map(name, _values(batch[column])) for name, column in zip(names, chosen.values(), strict=True)]
        for row in zip(*values, strict=True):
            yield f"{where}, row {next(number)}", dict(zip(chosen, row, strict=True))


def _flat(table: pa.Table) -> pa.Table:
    """With a column for every member of a column of objects."""
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # nothing has checked the strings of a file; as bytes each can be judged on its own
        return column.cast(pa.list_(pa.binary()) if pa.types.is_nested(column.type) else pa.binary()).to_pylist()


def _named(feature: Any) -> Callable[[Any], Any]:
    """What gives the integers of classes their names; -1 is how a hidden class is written."""
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        return lambda value: None if value == -1 else names.get(value, value)
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = _named(feature.feature)
        return lambda value: None if value is None else [inner(item) for item in value]
    return lambda value: value
