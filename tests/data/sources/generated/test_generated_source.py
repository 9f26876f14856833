"""A generated source only says how its splits are made; its base does the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources.generated.generated_source import DrawnSource, GeneratedSource, sizes
from seqlab.data.sources.generated.sampling import Lengths, Uniform, below
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError


@dataclass(frozen=True)
class Counted(GeneratedSource):
    rows: int = 2

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        MADE.append(self.rows)
        tables = {split: pa.table({"text": ["a"] * self.rows}) for split in SPLITS}
        return tables, {"examples": sizes(tables)}


@dataclass(frozen=True)
class Letters(DrawnSource):
    lengths: Lengths = (1, 3)
    test_lengths: Lengths | None = None
    train: int = 5
    validation: int = 2
    test: int = 1
    seed: int = 1

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        def draw(random: Uniform, lengths: Lengths) -> str:
            length = lengths[0] + below(random, lengths[1] - lengths[0] + 1)
            return "".join("abc"[below(random, 3)] for _ in range(length))

        return {split: pa.table({"text": texts}) for split, texts in self.distinct(draw, "letters").items()}, {}


MADE: list[int] = []


def test_it_is_made_once_when_it_is_read() -> None:
    MADE.clear()
    source = Counted()
    source.fingerprint()
    assert MADE == []
    assert source.read(Rejects())["train"].num_rows == 2
    assert source.metadata() == {"examples": {"train": 2, "validation": 2, "test": 2}}
    assert source.read(Rejects()) is source.read(Rejects())
    assert MADE == [2]


def test_settings_and_versions_have_fingerprints_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = {Counted().fingerprint(), Counted(3).fingerprint(), Letters().fingerprint()}
    assert Counted().fingerprint() in prints
    monkeypatch.setattr(Counted, "version", 2)
    assert len({*prints, Counted().fingerprint()}) == 4


def test_splits_share_no_example_and_have_their_lengths() -> None:
    tables = Letters(test_lengths=(4, 5), test=6).read(Rejects())
    texts = {split: table["text"].to_pylist() for split, table in tables.items()}
    assert {split: len(found) for split, found in texts.items()} == {"train": 5, "validation": 2, "test": 6}
    assert len({text for found in texts.values() for text in found}) == 13
    assert all(4 <= len(text) <= 5 for text in texts["test"])
    assert all(len(text) <= 3 for text in (*texts["train"], *texts["validation"]))
    assert Letters(seed=2).read(Rejects()) != Letters().read(Rejects())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lengths": (0, 3)}, r"data\.lengths="),
        ({"test_lengths": (4, 3)}, r"data\.test_lengths="),
        ({"validation": 0}, r"data\.validation=0 leaves the split empty"),
    ],
)
def test_settings_that_leave_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Letters(**settings)
