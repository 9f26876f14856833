"""Sources that read files of records, each on its own."""

# No annotations as strings here: those of a base's fields are looked up in the module of the class that inherits them.

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.records import Record
from seqlab.data.rejects import OnError, Rejects, RowError
from seqlab.data.sources.files import fingerprint, matching
from seqlab.data.sources.source import Source
from seqlab.data.sources.splits import records_by_split, tables
from seqlab.errors import InputError

SETTINGS = {"train": "data.path", "validation": "data.validation", "test": "data.test"}


@dataclass(frozen=True)
class RecordFiles(Source):
    """Files of records. A format says what the records of one file are.

    path          a file, or a pattern such as `reviews/*.csv` (`**` descends), read in the order of names; gzip is
                  recognised
    validation    the same for this split; without it, 10 % of the records under `path`, chosen by a hash
    test          likewise
    on_error      what becomes of a row that cannot be used: "raise", or "skip", which counts it
    max_rejected  the share of a split's rows that may be skipped

    Raises:
        InputError: max_rejected is no share; on reading, a file is missing or damaged, too many of its rows cannot be
            used, or a split is empty.
    """

    streamable: ClassVar = True
    settings: ClassVar = SETTINGS

    path: str
    validation: str | None = None
    test: str | None = None
    on_error: OnError = field(default="raise", kw_only=True)
    max_rejected: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        Rejects(self.on_error, self.max_rejected)

    @abstractmethod
    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        """The records of one file, in order; what cannot be read as one goes to `rejects`."""
        ...

    def fingerprint(self) -> str:
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("path", "validation", "test")}
        return fingerprint(f"{type(self).__name__} {settings}", self.files())

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        return tables(records_by_split(self, rejects), rejects, SETTINGS)

    def metadata(self) -> dict[str, Any]:
        return {"files": {split: len(files) for split, files in self.files().items()}}

    def files(self) -> dict[str, list[Path]]:
        """The files of each split that was given any."""
        patterns = {"train": self.path, "validation": self.validation, "test": self.test}
        return {split: matching(pattern, SETTINGS[split]) for split, pattern in patterns.items() if pattern is not None}

    def records_of(self, file: Path, split: str, rejects: Rejects) -> Iterator[Record]:
        """The records of one of the files of a split, of which there should be some."""
        rejected, empty = rejects.total, True
        try:
            for record in self.records(file, rejects):
                empty = False
                yield record
        except RowError as error:
            if not empty or any(True for _ in self.records(file, Rejects("skip", 1.0))):
                raise
            raise InputError(f"{error.told}; no row of the file can be used: see data=") from None
        if empty and rejects.total == rejected:
            rejects.add(str(file), "empty file", f"no record in it; see {SETTINGS[split]}=", whole=True)
