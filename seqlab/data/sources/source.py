"""A source of records: what `data=` chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa

from seqlab.data.records import Record
from seqlab.data.rejects import OnError, Rejects

SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Records in three splits that share nothing.

    A column of a table is a field: text, pair, source and target are strings; label is a string, which may be empty, or
    a list of strings where a record may have several; words and tags are lists of strings of equal length; origin,
    which may be missing, says where a record was found, such as "reviews.csv, line 7". Nothing is null.
    """

    def fingerprint(self) -> str:
        """Changes whenever `read` would return something else. Cheap: nothing is parsed."""
        ...

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """The records of "train", "validation" and "test"; none of the three is empty, all have the same columns."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What a reader of run.json wants to know about the data, such as how many files they were read from."""
        ...


class Files(Protocol):
    """A source whose records lie in files, or in pairs of files; `settings` names what gives those of a split."""

    @property
    def settings(self) -> Mapping[str, str]: ...
    @property
    def on_error(self) -> OnError: ...
    @property
    def max_rejected(self) -> float: ...

    def metadata(self) -> dict[str, Any]: ...

    def files(self) -> dict[str, list[Any]]:
        """Those of each split that was given any."""
        ...

    def records_of(self, file: Any, split: str, rejects: Rejects) -> Iterator[Record]:
        """The records of one file, in order."""
        ...


def split_of(key: str) -> str:
    """ "test" for 10 % of all keys, "validation" for 10 %, "train" for the rest, by SHA-256: for ever the same."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")
