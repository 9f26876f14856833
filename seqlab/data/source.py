"""A source of text: what `data=` chooses."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Sequences of text in three splits that share nothing."""

    def fingerprint(self) -> str:
        """Changes whenever `read` would return something else. Cheap: nothing is parsed."""
        ...

    def read(self) -> dict[str, list[str]]:
        """The text of every sequence of "train", "validation" and "test"; none of the three is empty."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader of run.json wants to know about the text, such as how many sequences were dropped."""
        ...


def split_of(key: str) -> str:
    """ "test" for 10 % of all keys, "validation" for 10 %, "train" for the rest, by SHA-256: for ever the same."""
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")
