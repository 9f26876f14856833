"""The base class of sources of records: what `data=` chooses."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.records import Columns, Record
from seqlab.data.rejects import OnError, Rejects

SPLITS = ("train", "validation", "test")


class Source(ABC):
    """A source of records in three splits that share nothing.

    A column of a table is a field: text, pair, source and target are strings; label is a string, which may be empty, or
    a list of strings where a record may have several; words and tags are lists of strings of equal length; origin,
    which may be missing, says where a record was found, such as "reviews.csv, line 7". Nothing is null.

    A source of your own is a subclass that defines `fingerprint` and `read`. All else has a default.

    Attributes:
        on_error: what becomes of a row that cannot be used: "raise" by default, or "skip", which counts it.
        max_rejected: the share of a split's rows that may be skipped; none by default.
        columns: the column of each field. None, the default: the source has no columns that can be named.
        streamable: whether the source can be read file by file (`batch.streaming=true`). By default it cannot. One that
            can defines `settings`, `files` and `records_of`.
        settings: the setting that gives the files of each split, such as "data.validation".
    """

    on_error: OnError = "raise"
    max_rejected: float = 0.0
    columns: Columns | None = None
    streamable: ClassVar[bool] = False
    settings: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that changes whenever `read` would return something else. Cheap: nothing is parsed."""
        ...

    @abstractmethod
    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """Return the records of "train", "validation" and "test". None is empty; all have the same columns.

        Rows that cannot be used go to `rejects`.

        Raises:
            InputError: the records cannot be read.
        """
        ...

    def metadata(self) -> dict[str, Any]:
        """Return what run.json says about the data, such as how many files were read. Nothing by default."""
        return {}

    def files(self) -> dict[str, list[Any]]:
        """Return the files, or pairs of files, of each split that was given any."""
        raise NotImplementedError(f"{type(self).__name__} is not read file by file")

    def records_of(self, file: Any, split: str, rejects: Rejects) -> Iterator[Record]:
        """Yield the records of one of the files of a split, in order."""
        raise NotImplementedError(f"{type(self).__name__} is not read file by file")


def split_of(key: str) -> str:
    """ "test" for 10 % of all keys, "validation" for 10 %, "train" for the rest, by SHA-256: for ever the same."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")
