"""Tagging without a download: the role of every identifier in the functions of the running Python's standard library.

A sequence is a function with all that is inside it (`python_roles.py` has the words and the roles). A logical line
would not do: whether a name is a parameter, a local or a global one is decided elsewhere in the function. Nor would a
module, which has thousands of words. And few names have their role by themselves: with the role that each name has most
often in the training split, 55 % of the identifiers of the test split are right, and 86 % of all words (Python 3.11).
"""

from __future__ import annotations

import hashlib
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqlab.data.sources import stdlib
from seqlab.data.sources.generated.generated_source import GeneratedSource
from seqlab.data.sources.generated.python_roles import Function, functions
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError


@dataclass(frozen=True)
class PyTokens(GeneratedSource):
    """Fields: words and tags of a function; origin, its file and line.

    All functions of a top-level module are in the same split, as docstrings are. One that occurs several times is kept
    where the first file that has it, in the order of paths, belongs: so none is in two splits.

    train       the most functions there are to be, from files in the order of a hash of their paths; null: all. The
                whole library takes half a minute
    validation  likewise
    test        likewise
    max_words   longer functions are left out; null: none

    Raises:
        InputError: a knob is out of range; on reading, a split is empty.
    """

    train: int | None = 4_000
    validation: int | None = 500
    test: int | None = 500
    max_words: int | None = 500

    def __post_init__(self) -> None:
        for knob, value in vars(self).items():
            if value is not None and value < 1:
                raise InputError(f"data.{knob}={value} leaves nothing; give at least 1, or null for no limit")

    def fingerprint(self) -> str:
        """Made of the Python version and the names and sizes of the library's files."""
        return stdlib.fingerprint(f"{self} {self.version}")

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        splits: dict[str, list[tuple[str, Function]]] = {split: [] for split in SPLITS}
        counts = Counter(files=0, files_not_parsed=0, too_long=0, duplicates=0, not_understood=0)
        seen: set[tuple[str, ...]] = set()
        library = stdlib.library()
        for path in sorted(stdlib.files(library), key=_hash):
            split = stdlib.split_of_file(path)
            rows, most = splits[split], getattr(self, split)
            if most is not None and len(rows) == most:
                continue
            text = _text(library / path)
            found = None if text is None else functions(text)
            counts["files"] += 1
            counts["files_not_parsed"] += found is None
            for function in found or ():
                if self.max_words is not None and len(function.words) > self.max_words:
                    counts["too_long"] += 1
                elif None in function.roles:
                    counts["not_understood"] += 1
                elif function.words in seen:
                    counts["duplicates"] += 1
                else:
                    seen.add(function.words)
                    rows.append((f"{path.as_posix()}, line {function.line}", function))
            splits[split] = rows[:most]
        for split, rows in splits.items():
            if not rows:
                raise InputError(
                    f"no functions for {split} in the sources of {stdlib.python()} at {library} ({counts['files']} "
                    "files); raise data.max_words, or use another Python"
                )
        tags = Counter(role for rows in splits.values() for _, function in rows for role in function.roles)
        return {split: _table(rows) for split, rows in splits.items()}, {
            "python": stdlib.python(),
            **counts,
            "functions": {split: len(rows) for split, rows in splits.items()},
            "tags": dict(tags.most_common()),
        }


def _hash(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


def _text(path: Path) -> str | None:
    """None where it is not in the encoding that it declares."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, ValueError):
        return None


def _table(rows: list[tuple[str, Function]]) -> pa.Table:
    return pa.table(
        {
            "words": [function.words for _, function in rows],
            "tags": [function.roles for _, function in rows],
            "origin": [origin for origin, _ in rows],
        }
    )
