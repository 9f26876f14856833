"""A source of records: what `data=` chooses."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import pyarrow as pa

from seqlab.data.rejects import Rejects

SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Records in three splits that share nothing.

    A record has fields by name, and a source has those that its data offers: `text`, `pair`, `source`, `target` are
    strings, `label` a string or a list of strings, `words` and `tags` lists of strings. `origin`, where there is one,
    says where a record comes from, such as "reviews.csv, line 7".
    """

    def fingerprint(self) -> str:
        """Changes whenever `read` would return something else. Cheap: nothing is parsed."""
        ...

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """The records of "train", "validation" and "test"; none of the three is empty.

        Args:
            rejects: where rows go that cannot be used.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader of run.json wants to know about the data, such as how many sequences were dropped."""
        ...


def split_of(key: str) -> str:
    """ "test" for 10 % of all keys, "validation" for 10 %, "train" for the rest, by SHA-256: for ever the same."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")
