"""Records to the tables of the three splits: checked, cut where a split was not given, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from seqlab.data.records import FIELDS, INPUTS, Record, checked
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.source import SPLITS, Source, split_of
from seqlab.errors import InputError, counted

_ROWS_AT_ONCE = 1000


def tables(given: Mapping[str, Iterable[Record]], rejects: Rejects, settings: Mapping[str, str]) -> dict[str, pa.Table]:
    """The table of each split, with the columns that `Source` describes.

    A split that is not given is cut from "train": 10 % of it, chosen by a hash of what a model reads. So records that
    read the same stay together, and none gets into two splits.

    Args:
        given: the records of "train", and of "validation" and "test" where there are such.
        rejects: takes the records that cannot be used.
        settings: the override that gives a split, such as "data.validation".

    Raises:
        InputError: a split is empty, or what `rejects` has to say.
    """
    rows: dict[str, _Rows] = {split: _Rows() for split in SPLITS}
    kinds: dict[str, type] = {}  # of the fields of the first record, which all others must have too
    for split, records in given.items():
        kept, rejected = 0, rejects.total
        for origin, values in records:
            try:
                fields = fields_of(values, kinds)
            except Unusable as problem:
                rejects.add(origin, problem.reason, problem.message)
                continue
            cut = split_of("\0".join(_key(fields))) if split == "train" else split
            rows["train" if split == "train" and cut in given else cut].add({**fields, "origin": origin})
            kept += 1
        rejects.settle(kept + rejects.total - rejected, split)
    for split, part in rows.items():
        if not part.count:
            shared = sum(rows[name].count for name in SPLITS if name == "train" or name not in given)
            raise InputError(
                f"nothing for {split}: {settings['train']} has {counted(shared, 'record')}, of which a hash sends "
                f"10 % each to validation and test where these are not given; give more, or {settings[split]}=..."
            )
    schema = schema_of(kinds)
    return {split: part.table(schema) for split, part in rows.items()}


def records_by_split(source: Source, rejects: Rejects) -> dict[str, Iterator[Record]]:
    """The records of all files of each split, one file after the other."""
    return {
        split: chain.from_iterable(map(partial(source.records_of, split=split, rejects=rejects), files))
        for split, files in source.files().items()
    }


def fields_of(values: dict[str, Any], kinds: dict[str, type]) -> dict[str, Any]:
    """The values of a record, checked, among them that it has the fields of the first, whose `kinds` it fills in.

    Raises:
        Unusable: it cannot be used.
    """
    fields = checked(values)
    if not kinds:
        kinds.update({field: type(fields[field]) for field in FIELDS if field in fields})
    _require_same(fields, kinds)
    return fields


def schema_of(kinds: Mapping[str, type]) -> pa.Schema:
    """Of a table of records with fields of these kinds."""
    return pa.schema([(field, _TYPES[kind]) for field, kind in kinds.items()] + [("origin", pa.string())])


_TYPES: dict[type, Any] = {str: pa.string(), list: pa.list_(pa.string())}


class _Rows:
    """Rows, on their way into a table: in Arrow a thousand at a time, because Python's strings and lists are large."""

    def __init__(self) -> None:
        self.count = 0
        self._full: list[dict[str, pa.Array]] = []
        self._open: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self.count += 1
        self._open.append(row)
        if len(self._open) == _ROWS_AT_ONCE:
            self._close()

    def _close(self) -> None:
        kinds = {field: _TYPES[type(value)] for field, value in self._open[0].items()}
        self._full.append({field: pa.array([row[field] for row in self._open], kind) for field, kind in kinds.items()})
        self._open = []

    def table(self, schema: pa.Schema) -> pa.Table:
        if self._open:
            self._close()
        return pa.Table.from_batches([pa.record_batch(columns, schema) for columns in self._full], schema)


def _require_same(fields: dict[str, Any], kinds: dict[str, type]) -> None:
    if fields.keys() != kinds.keys():
        for field in kinds.keys() - fields.keys():
            unread = f"; {_unread(field)}" if field == "pair" else ""
            raise Unusable(f"no {field}", f"no {field}, which the first record has{unread}")
        for field in fields.keys() - kinds.keys():
            known = f"a {field}, but the first record has only {', '.join(kinds)}"
            raise Unusable(f"unexpected {field}", f"{known}; {_unread(field)}")
    if "label" in kinds and type(fields["label"]) is not kinds["label"]:
        one, other = ("a list of labels", "one label") if kinds["label"] is list else ("one label", "a list of labels")
        raise Unusable("label of wrong type", f"{other}, but the first record has {one}")


def _unread(field: str) -> str:
    return f"data.columns.{field}=false reads none"


def _key(fields: Mapping[str, Any]) -> Iterable[str]:
    for field in INPUTS:
        if field in fields:
            yield from fields[field] if field == "words" else (fields[field],)
