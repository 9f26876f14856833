"""Parquet files, and the rows of any other table of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from seqlab.data.record_files import RecordFiles
from seqlab.data.records import BY_FIELD, Columns, Record
from seqlab.data.rejects import Rejects, Unusable
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
                features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
                batches = (pa.Table.from_batches([batch]) for batch in parquet.iter_batches(ROWS_AT_ONCE))
                yield from rows(batches, features, self.columns, str(file))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read as Parquet: {error}; see data.path=") from error


def rows(batches: Iterable[pa.Table], features: Any, columns: Columns, where: str) -> Iterator[Record]:
    """The records of a table, which comes in parts and whose `datasets.Features` say which integers are classes.

    Raises:
        InputError: a column that is named is not there.
    """
    features = features.flatten()
    try:
        chosen = columns.choose(features)
    except Unusable as problem:
        raise InputError(f"{where}: {problem.message}") from None
    number = 0
    for batch in batches:
        flat = batch
        while any(pa.types.is_struct(kind) for kind in flat.schema.types):
            flat = flat.flatten()
        values = [map(_named(features[name]), flat[name].to_pylist()) for name in chosen.values()]
        for row in zip(*values, strict=True):
            number += 1
            yield f"{where}, row {number}", dict(zip(chosen, row, strict=True))


def _named(feature: Any) -> Callable[[Any], Any]:
    """What gives the integers of classes their names; -1 is how a hidden class is written."""
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        return lambda value: None if value in (None, -1) else names.get(value, value)
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = _named(feature.feature)
        return lambda value: None if value is None else [inner(item) for item in value]
    return lambda value: value
