"""Training records that are read as they are needed, file after file, for those that no disk or memory would hold.

    records   r0 r1 r2 r3 | r4 r5 ...     "|" where a file ends
    pools     [r0 r1 r2] [r3 r4] ...      each of about `pool` batches' worth of tokens
    batches   a pool is cut and shuffled as `plan.py` says; none has records of two pools, so that one may not be full

A pool is a function of the records, so that to go on in its middle it is read again from its first record on. Nothing
else has to be known: not how many records there are, nor what came before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples
from seqlab.data.loader import Loader, PlannedLoader, Position
from seqlab.data.preprocessing.preprocessor import Preprocessor
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.files import glance
from seqlab.data.sources.source import SPLITS, Source
from seqlab.data.sources.splits import fields_of, records_by_split, schema_of, tables
from seqlab.data.windows import Windows
from seqlab.errors import InputError
from seqlab.text.vocabularies import Vocabularies

_RECORDS_AT_ONCE = 100


class Beginning(Source):
    """The first training records of a streamable source, from which vocabularies are learned, and all other splits.

    Args:
        source: the source.
        records: how many training records are read.

    Raises:
        InputError: on reading, validation or test are not given: they are never cut from a stream.
    """

    def __init__(self, source: Source, records: int) -> None:
        self.source, self.records = source, records
        self.on_error, self.max_rejected, self.columns = source.on_error, source.max_rejected, source.columns

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"Beginning(source={self.source!r}, records={self.records})".encode())
        for split, files in self.source.files().items():
            digest.update(f"\n{split}".encode())
            for file in files:
                for path in file if isinstance(file, tuple) else (file,):
                    digest.update(glance(path))
        return digest.hexdigest()

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        files, settings = self.source.files(), self.source.settings
        if missing := [settings[split] for split in SPLITS if split not in files]:
            raise InputError(
                f"batch.streaming=true cuts nothing from {settings['train']}: give {' and '.join(missing)}"
            )
        given = records_by_split(self.source, rejects)
        return tables({**given, "train": islice(given["train"], self.records)}, rejects, settings)

    def metadata(self) -> dict[str, Any]:
        return {**self.source.metadata(), "streamed": True, "training_records_learned_from": self.records}


@dataclass(frozen=True)
class Place:
    """Where a pool begins. `Position.notes` are its fields.

    epoch, batch    of its first batch
    file, record    that it reads first
    example         the number of its first example
    kept, rejected  how many records had been used before, and how many could not be
    """

    epoch: int = 0
    batch: int = 0
    file: int = 0
    record: int = 0
    example: int = 0
    kept: int = 0
    rejected: int = 0


class Streamed(Loader):
    """Gives batches of records that are read when they are needed, in the order of the files in every epoch.

    At most `pool` batches' worth of tokens are held, and a hundred records more. How many batches an epoch has is known
    as soon as its last pool has been read.

    Args:
        source: a streamable source.
        preprocessor, vocabularies: of the training records.
        beginning: examples of the first of them, which stand for all where one wants to look at some.
        tokens, pool, seed: as in `make_plan`; a pool is about that many batches.
        max_length, over_long: as in `Examples`.
    """

    has_all_examples = False

    def __init__(
        self,
        source: Source,
        preprocessor: Preprocessor,
        vocabularies: Vocabularies,
        beginning: Examples | Windows,
        tokens: int,
        pool: int,
        seed: int | None,
        max_length: int,
        over_long: str,
    ) -> None:
        self.examples, self.tokens, self.pool, self.seed = beginning, tokens, pool, seed
        self.source, self.preprocessor, self.vocabularies = source, preprocessor, vocabularies
        self.longest, self.longest_side, self.over_long = max_length, max_length, over_long
        self._longest_read = 0

    @property
    def planned(self) -> PlannedLoader:
        return PlannedLoader(self.examples, self.tokens, self.pool, self.seed)

    def read(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield the batches from a position to the end of its epoch, each with the position that follows it.

        The notes of a position are a `Place` of its epoch, at or before its batch, from which reading continues. Other
        notes are not heeded, and reading then begins with the epoch's first record.

        Raises:
            InputError: a record cannot be used, or too many cannot.
        """
        epoch = start.epoch
        at = Place(**start.notes) if start.notes else Place(epoch)
        if at.epoch != epoch or at.batch > start.batch:
            at = Place(epoch)
        for examples, after in self._pools(at):
            self._longest_read = max(self._longest_read, *(int(side.max(initial=0)) for side in examples.sides))
            self.longest_side = self._longest_read  # until now what may be; then what there is, which a bundle tells
            batches = 1 if self.pool == 1 else examples.report["tokens"] // self.tokens + 2  # as one pool
            plan = examples.plan(self.tokens, batches, self.seed, epoch << 32 | at.batch)
            ends = at.batch + len(plan)
            here = at
            at = at if after is None else replace(after, batch=ends, example=at.example + len(examples))
            for number in range(max(start.batch, here.batch), ends):
                if number + 1 < ends:
                    follows = Position(epoch, number + 1, 0 if after else ends, asdict(here))
                else:
                    follows = Position(epoch, ends, 0, asdict(at)) if after else Position(epoch + 1)
                batch = examples.batch(plan[number - here.batch])
                yield replace(batch, ids=batch.ids + here.example), follows

    def _pools(self, at: Place) -> Iterator[tuple[Examples, Place | None]]:
        """Yield the examples of each pool, and what comes after it; None after the last."""
        tables: list[pa.Table] = []
        after = at
        for rows, ends in self._rows(at):
            if not len(rows):  # all were rejected: no pool may be of these alone, or an epoch would end without a batch
                after = ends
                continue
            if sum(int(np.sum(table["length"])) for table in tables) >= self.pool * self.tokens:
                yield self._examples(tables), after
                tables = []
            tables.append(rows)
            after = ends
        if tables:
            yield self._examples(tables), None

    def _examples(self, tables: list[pa.Table]) -> Examples:
        table = datasets.table.InMemoryTable(pa.concat_tables(tables))
        return Examples(datasets.Dataset(table, fingerprint="pool"), self.longest, self.over_long)

    def _rows(self, at: Place) -> Iterator[tuple[pa.Table, Place]]:
        """Prepared rows of some records at a time, and what comes after them."""
        rejects, kept = Rejects(self.source.on_error, self.source.max_rejected), at.kept
        kinds: dict[str, type] = {}
        next(self._records(Place(), Rejects("skip", 1.0), kinds), None)  # the first record says what all are like
        records = self._records(at, rejects, kinds)
        while some := list(islice(records, _RECORDS_AT_ONCE)):
            table = pa.Table.from_pylist([fields for fields, *_ in some], schema_of(kinds))
            rows = self.preprocessor.tokenize(table, self.vocabularies, rejects)
            kept += len(rows)
            _, file, record = some[-1]
            yield rows, replace(at, file=file, record=record, kept=kept, rejected=rejects.total)
        rejects.settle(kept + rejects.total, "train")

    def _records(
        self, at: Place, rejects: Rejects, kinds: dict[str, type]
    ) -> Iterator[tuple[dict[str, Any], int, int]]:
        """The fields of each record from a place on, and the file and record after it."""
        before = {"what was read before": at.rejected} if at.rejected else {}
        rejects.counts = dict(before)
        for i, file in enumerate(self.source.files()["train"]):
            if i < at.file:
                continue
            begin = at.record if i == at.file else 0
            for j, (origin, values) in enumerate(self.source.records_of(file, "train", rejects)):
                if j < begin:
                    rejects.counts = dict(before)  # it has been there already
                    continue
                try:
                    yield {**fields_of(values, kinds), "origin": origin}, i, j + 1
                except Unusable as problem:
                    rejects.add(origin, problem.reason, problem.message)
