"""Bases of sources that are made by a program, not read from files of records."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from seqlab.data.rejects import Rejects
from seqlab.data.sources.generated.sampling import (
    Example,
    Lengths,
    Uniform,
    distinct_splits,
    require_lengths,
    require_sizes,
)
from seqlab.data.sources.source import Source


class GeneratedSource(Source):
    """A source that is made once, when it is first read. A subclass is a frozen dataclass that implements `make`.

    version  raise it whenever the same settings would give something else
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """Return the table of each split, and the metadata."""

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self} {self.version}".encode()).hexdigest()

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """Return the tables. Nothing is rejected."""
        return self._made[0]

    def metadata(self) -> dict[str, Any]:
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        return self.make()


class DrawnSource(GeneratedSource):
    """A source of examples that are drawn by chance. A subclass has these fields, with defaults of its own.

    lengths       the shortest and the longest example of training and validation
    test_lengths  those of the test split; None: the same
    train         how many examples; validation and test likewise
    seed          of the draws

    Raises:
        InputError: the lengths are none, or a split would be empty.
    """

    lengths: Lengths
    test_lengths: Lengths | None
    train: int
    validation: int
    test: int
    seed: int

    def __post_init__(self) -> None:
        require_lengths(self.lengths, "lengths")
        require_lengths(self.test_lengths or self.lengths, "test_lengths")
        require_sizes(self.train, self.validation, self.test)

    def distinct(self, draw: Callable[[Uniform, Lengths], Example | None], name: str) -> dict[str, list[Example]]:
        """Return three splits in which no example occurs twice. See `distinct_splits`.

        Args:
            draw: returns an example with a length in a range; None for one to be drawn again.
            name: of the source, on which the draws depend besides the seed.
        """
        sizes = (self.train, self.validation, self.test)
        return distinct_splits(draw, (name, self.seed), self.lengths, self.test_lengths, *sizes)


def sizes(tables: dict[str, pa.Table]) -> dict[str, int]:
    """Return the number of records in each split."""
    return {split: table.num_rows for split, table in tables.items()}
