"""Pairs of files, line by line: a sentence in one language, and its translation on the same line of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.records import Record, decoded
from seqlab.data.rejects import OnError, Rejects, Unusable
from seqlab.data.sources.files import Line, fingerprint, lines, matching
from seqlab.data.sources.source import Source
from seqlab.data.sources.splits import records_by_split, tables
from seqlab.errors import InputError, counted

_SETTINGS = {"train": "data.source", "validation": "data.validation", "test": "data.test"}


@dataclass(frozen=True)
class ParallelFiles(Source):
    """Pairs of text files of equally many lines. The fields are `source` and `target`.

    source        a file, or a pattern such as `europarl/*.en`, read in the order of names; gzip is recognised
    target        likewise, as many files
    validation    source and target of this split; without them, 10 % of the pairs, chosen by a hash of the source
    test          likewise
    on_error      what becomes of a pair that cannot be used: "raise", or "skip", which counts it
    max_rejected  the share of a split's pairs that may be skipped

    Raises:
        InputError: max_rejected is no share, or a split is not given as two; on reading, a file is missing or damaged,
            two files are of different lengths, too many pairs cannot be used, or a split is empty.
    """

    streamable: ClassVar = True
    settings: ClassVar = _SETTINGS

    source: str
    target: str
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    on_error: OnError = field(default="raise", kw_only=True)
    max_rejected: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        Rejects(self.on_error, self.max_rejected)
        for name, pair in (("validation", self.validation), ("test", self.test)):
            if pair is not None and (isinstance(pair, str) or len(pair) != 2):
                raise InputError(f"data.{name} needs two files: data.{name}=[SOURCE,TARGET]")

    def fingerprint(self) -> str:
        files = {split: [file for pair in pairs for file in pair] for split, pairs in self.files().items()}
        return fingerprint(f"ParallelFiles {self.on_error} {self.max_rejected}", files)

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        return tables(records_by_split(self, rejects), rejects, _SETTINGS)

    def metadata(self) -> dict[str, Any]:
        return {"files": {split: len(pairs) for split, pairs in self.files().items()}}

    def files(self) -> dict[str, list[tuple[Path, Path]]]:
        """The pairs of files of each split that was given any."""
        found = {"train": _paired(self.source, self.target, "data.source", "data.target")}
        for split, pair in (("validation", self.validation), ("test", self.test)):
            if pair is not None:
                found[split] = _paired(*pair, _SETTINGS[split], _SETTINGS[split])
        return found

    def records_of(self, file: tuple[Path, Path], split: str, rejects: Rejects) -> Iterator[Record]:
        """The records of one of the pairs of files of a split."""
        return _records(*file, rejects)


def _paired(source: str, target: str, *settings: str) -> list[tuple[Path, Path]]:
    sources, targets = matching(source, settings[0]), matching(target, settings[1])
    if len(sources) != len(targets):
        found = f"{source} is {counted(len(sources), 'file')}, but {target} {counted(len(targets), 'file')}"
        raise InputError(f"{found}; each needs its pair")
    return list(zip(sources, targets, strict=True))


def _records(source: Path, target: Path, rejects: Rejects) -> Iterator[Record]:
    read = {source: 0, target: 0}
    for pair in zip_longest(lines(source), lines(target)):
        for file, line in zip(read, pair, strict=True):
            read[file] += line is not None
        if pair[0] is None or pair[1] is None:
            continue  # to the end, for the message
        origin = f"{source} and {target.name}, line {pair[0].number}"
        try:
            values = dict(zip(("source", "target"), map(_text, pair), strict=True))
        except Unusable as problem:
            rejects.add(origin, problem.reason, problem.message)
        else:
            yield origin, values
    if read[source] != read[target]:  # whatever data.on_error says: from somewhere on, no line has its translation
        counts = " and ".join(f"{file} has {count:,}" for file, count in read.items())
        raise InputError(f"not the same number of lines: {counts}; give files that match line by line")
    if not read[source]:
        rejects.add(f"{source} and {target}", "empty file", "no line in them", whole=True)


def _text(line: Line) -> str:
    return decoded(line.content)
