"""A source of records: what `data=` chooses."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import pyarrow as pa

from seqlab.data.rejects import Rejects

SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Records in three splits that share nothing.

    A column of a table is a field: text, pair, source and target are strings; label is a string, or a list of strings
    where a record may have several; words and tags are lists of strings of equal length; origin, which may be missing,
    says where a record was found, such as "reviews.csv, line 7". Nothing is null.
    """

    def fingerprint(self) -> str:
        """Changes whenever `read` would return something else. Cheap: nothing is parsed."""
        ...

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """The records of "train", "validation" and "test"; none of the three is empty, all have the same columns."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader of run.json wants to know about the data, such as how many files they were read from."""
        ...


def split_of(key: str) -> str:
    """ "test" for 10 % of all keys, "validation" for 10 %, "train" for the rest, by SHA-256: for ever the same."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")
