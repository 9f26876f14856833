"""Records read when they are needed: each once an epoch, few at a time, and the rest from wherever one stops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqlab.data import streaming
from seqlab.data.batch import Batch
from seqlab.data.corpus import prepare
from seqlab.data.examples import Examples
from seqlab.data.loader import Position
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.preprocessing.sequence_to_sequence import SequenceToSequencePreprocessor
from seqlab.data.records import Record
from seqlab.data.rejects import Rejects
from seqlab.data.sources.files import glance
from seqlab.data.sources.json import JsonFiles
from seqlab.data.sources.parallel import ParallelFiles
from seqlab.data.sources.text import TextFiles
from seqlab.data.streaming import Beginning, Streamed
from seqlab.errors import InputError
from seqlab.text.tokenizer_training import Bytes
from seqlab.text.vocabularies import Vocabularies

COUNTS = (23, 1, 41, 12)  # records of each file
TOKENS, POOL, AT_ONCE = 64, 3, 4
LONGEST = 21  # tokens of a text with its end mark


@pytest.fixture(autouse=True)
def _few_records_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_RECORDS_AT_ONCE", AT_ONCE)


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Distinct texts of 3 to LONGEST - 1 bytes, in files of text."""
    random = np.random.default_rng(0)
    texts = [f"{i:03}" + "x" * int(random.integers(0, LONGEST - 3)) for i in range(sum(COUNTS))]
    bounds = np.cumsum([0, *COUNTS])
    for i, (begin, end) in enumerate(pairwise(bounds)):
        (tmp_path / f"train-{i}.txt").write_text("\n".join(texts[begin:end]) + "\n")
    (tmp_path / "other.txt").write_text("one\ntwo\n")
    return texts


class Counted(TextFiles):
    """Counts the records that are read."""

    read_so_far: ClassVar[list[str]] = []

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        for origin, values in super().records(file, rejects):
            self.read_so_far.append(values["text"])
            yield origin, values


def make(folder: Path, pool: int = POOL, seed: int | None = 1, **options: Any) -> Streamed:
    other = str(folder / "other.txt")
    source = Counted(str(folder / "train-*.txt"), other, other, **options)
    corpus = prepare(Beginning(source, 10), LanguageModelingPreprocessor(), Bytes(), folder / "cache")
    beginning = Examples(corpus.splits["train"])
    Counted.read_so_far = []
    return Streamed(
        source, LanguageModelingPreprocessor(), corpus.vocabularies, beginning, TOKENS, pool, seed, TOKENS, "error"
    )


def told(loader: Streamed, batch: Batch) -> list[tuple[int, str]]:
    decode = loader.vocabularies.tokenizer.decode
    rows = zip(batch.ids.tolist(), batch.targets.to_list(), strict=True)
    return [(number, decode(row.tolist())) for number, row in rows]


@pytest.mark.parametrize("pool", [1, 3, 1000])
def test_each_record_is_in_one_batch_of_an_epoch(tmp_path: Path, texts: list[str], pool: int) -> None:
    loader = make(tmp_path, pool)
    orders = []
    for epoch in (0, 1):
        read = list(loader.read(Position(epoch)))
        batches = [batch for batch, _ in read]
        *inside, end = [position for _, position in read]
        assert end == Position(epoch + 1)  # which the loader tells, and not how many batches there are
        assert [(position.epoch, position.batch) for position in inside] == [(epoch, n) for n in range(1, len(read))]
        assert {position.batches for position in inside} <= {0, len(read)}  # known once the last pool is read
        assert inside[-1].batches == len(read) or pool == 1
        assert max(batch.num_tokens for batch in batches) <= TOKENS
        order = [one for batch in batches for one in told(loader, batch)]
        assert sorted(order) == list(enumerate(texts))
        orders.append(order)
    assert orders[0] != orders[1]
    again = make(tmp_path, pool)
    assert [one for batch in again.batches(1) for one in told(again, batch)] == orders[1]
    full = [batch.num_tokens / TOKENS for batch in batches]
    assert np.mean(full) > {1: 0.6, 3: 0.75, 1000: 0.9}[pool]  # the last batch of a pool is what is left


def test_little_is_held_and_neighbours_stay_near(tmp_path: Path, texts: list[str]) -> None:
    loader = make(tmp_path)
    held, given = [], 0
    tokens = [len(text) + 1 for text in texts]
    for batch in loader.batches(0):
        read = len(Counted.read_so_far) - 1  # the first record is looked at, to know what all are like
        held.append(sum(tokens[given:read]))
        numbers = [number for number, _ in told(loader, batch)]
        assert max(numbers) < read
        given += len(batch)
    most = POOL * TOKENS + 2 * AT_ONCE * LONGEST
    assert max(held) <= most < sum(tokens) / 2
    assert held[0] >= POOL * TOKENS


def test_the_rest_of_an_epoch_from_anywhere(tmp_path: Path, texts: list[str]) -> None:
    loader = make(tmp_path)
    read = list(loader.read(Position(1)))
    whole = [told(loader, batch) for batch, _ in read]
    # What a checkpoint keeps once a batch is done; the last is the beginning of the next epoch.
    positions = [Position(1), *(Position(**json.loads(json.dumps(asdict(position)))) for _, position in read[:-1])]
    assert len({tuple(position.notes.items()) for position in positions}) > 4
    assert {position.notes["file"] for position in positions[1:]} > {0}
    for start, position in enumerate(positions):
        other = make(tmp_path)
        rest = list(other.read(position))
        assert [told(other, batch) for batch, _ in rest] == whole[start:]
        assert [(p.epoch, p.batch) for _, p in rest] == [(p.epoch, p.batch) for _, p in read[start:]]
        if start == len(positions) - 1:
            skipped = sum(COUNTS[: position.notes["file"]])
            assert skipped > 0
            assert len(Counted.read_so_far) - 1 == len(texts) - skipped  # the files before are not even opened
        without = make(tmp_path)
        assert [told(without, batch) for batch in without.batches(1, start)] == whole[start:]
    stale = {"epoch": 0, "batch": 1, "file": 2, "record": 1, "example": 30}  # of another epoch, or beyond
    for notes in (stale, {**stale, "epoch": 1, "batch": 9}):
        other = make(tmp_path)
        assert [told(other, batch) for batch, _ in other.read(Position(1, 2, 0, notes))] == whole[2:]


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{i:03}"}) if i % 10 else "{broken" for i in range(1, 61)]
    rows[4] = json.dumps({"text": "x", "label": "y"})  # unlike the first
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    other = str(tmp_path / "other.jsonl")
    source = JsonFiles(str(tmp_path / "train.jsonl"), other, other, on_error="skip", max_rejected=0.2)
    corpus = prepare(Beginning(source, 5), LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    how = (
        source,
        LanguageModelingPreprocessor(),
        corpus.vocabularies,
        Examples(corpus.splits["train"]),
        20,
        2,
        1,
        20,
        "error",
    )
    loader = Streamed(*how)
    read = list(loader.read(Position()))
    whole = [told(loader, batch) for batch, _ in read]
    positions = [Position(), *(position for _, position in read[:-1])]
    assert [text for _, text in sorted(one for batch in whole for one in batch)] == [
        f"{i:03}" for i in range(1, 61) if i % 10 and i != 5
    ]
    for start, position in enumerate(positions):
        assert [told(loader, batch) for batch, _ in loader.read(position)] == whole[start:]
    strict = Streamed(JsonFiles(source.path, other, other, on_error="skip", max_rejected=0.05), *how[1:])
    last = Position()
    with pytest.raises(InputError, match="7 of 60 rows cannot be used"):
        for _, last in strict.read(Position()):  # noqa: B007
            ...
    assert last.batch > 1
    with pytest.raises(InputError, match="7 of 60 rows cannot be used"):  # from the last pool on
        list(strict.read(last))
    with pytest.raises(InputError, match=r"line 5: a label, but the first record has only text"):
        list(Streamed(JsonFiles(source.path, other, other), *how[1:]).batches(0))


def test_an_epoch_ends_where_the_last_records_are_rejected(tmp_path: Path) -> None:
    """The records that are read last make no pool: the batch before them is the last."""
    rows = [json.dumps({"text": f"{i:03}"}) for i in range(40)] + [json.dumps({"text": "x", "label": "y"})] * 9
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    other, preprocessor = str(tmp_path / "other.jsonl"), Picky()
    source = JsonFiles(str(tmp_path / "train.jsonl"), other, other, on_error="skip", max_rejected=1.0)
    corpus = prepare(Beginning(source, 5), preprocessor, Bytes(), tmp_path / "cache")
    for pool in range(1, 5):
        how = (corpus.vocabularies, Examples(corpus.splits["train"]), 16, pool, 1, 16, "error")
        loader = Streamed(source, preprocessor, *how)
        read = list(loader.read(Position()))
        assert read[-1][1] == Position(1)
        kept = sorted(text for batch, _ in read for _, text in told(loader, batch))
        assert kept == [f"{i:03}" for i in range(32)]


class Picky(LanguageModelingPreprocessor):
    """Cannot use the texts from "032" on."""

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        usable = [not "032" <= text <= "999" for text in records.column("text").to_pylist()]
        for row, keep in enumerate(usable):
            if not keep:
                rejects.add(f"row {row}", "too late", "a text from 032 on")
        return super().tokenize(records.filter(pa.array(usable, pa.bool_())), vocabularies, rejects)


def test_long_rows_are_cut_and_pairs_are_streamed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{i} source\n" for i in range(30)))
    (tmp_path / "b.txt").write_text("".join(f"{i} target\n" for i in range(30)))
    pair = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    source = ParallelFiles(*pair, validation=pair, test=pair)
    preprocessor = SequenceToSequencePreprocessor()
    corpus = prepare(Beginning(source, 7), preprocessor, Bytes(), tmp_path / "cache")
    assert len(corpus.splits["train"]) == 7
    how = (source, preprocessor, corpus.vocabularies, Examples(corpus.splits["train"]), 60, 2, 1, 60, "error")
    streamed = Streamed(*how)
    assert streamed.longest_side == 60  # nothing has been read: what may be
    found = Counter(text for batch in streamed.batches(0) for _, text in told(streamed, batch))
    assert found == Counter(f"{i} target" for i in range(30))
    assert streamed.longest_side == len("10 source") + 1  # what there is, and an end mark

    text = TextFiles(pair[0], pair[0], pair[0], unit="file")
    corpus = prepare(Beginning(text, 1), LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    loader = Streamed(
        text,
        LanguageModelingPreprocessor(),
        corpus.vocabularies,
        Examples(corpus.splits["train"]),
        40,
        2,
        1,
        40,
        "split",
    )
    batches = list(loader.batches(0))
    assert sum(batch.num_tokens for batch in batches) == len((tmp_path / "a.txt").read_text())
    assert torch.cat([batch.ids for batch in batches]).sort().values.tolist() == list(range(sum(map(len, batches))))


def test_the_beginning_is_known_by_a_glance_at_the_files(tmp_path: Path, texts: list[str]) -> None:
    other = str(tmp_path / "other.txt")
    source = TextFiles(str(tmp_path / "train-*.txt"), other, other)
    fingerprints = {Beginning(source, 10).fingerprint(), Beginning(source, 11).fingerprint()}
    (tmp_path / "train-2.txt").write_text("\n".join(texts) + "\n")
    fingerprints.add(Beginning(source, 10).fingerprint())
    assert len(fingerprints) == 3
    tables = Beginning(source, 30).read(Rejects())
    assert [len(tables[split]) for split in ("train", "validation", "test")] == [30, 2, 2]
    assert tables["train"]["text"].to_pylist() == [*texts[:24], *texts[:6]]
    with pytest.raises(InputError, match=r"cuts nothing from data\.path: give data\.validation and data\.test"):
        Beginning(TextFiles(source.path), 10).read(Rejects())
    named = [Beginning(files, 10).columns is not None for files in (JsonFiles(source.path), TextFiles(source.path))]
    assert named == [True, False]  # what a message advises depends on it


def test_every_pool_has_an_order_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "train-0.txt").write_text("".join(f"{i:07}\n" for i in range(96)))  # 8 in a batch, 24 in a pool
    (tmp_path / "other.txt").write_text("other\n")
    loader = make(tmp_path)
    numbers = [number for batch in loader.batches(0) for number, _ in told(loader, batch)]
    orders = [[number - 24 * pool for number in numbers[24 * pool :][:24]] for pool in range(4)]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len(set(map(tuple, orders))) == 4


def test_a_glance_is_at_size_and_both_ends(tmp_path: Path) -> None:
    content = bytes(3 * 2**20)
    digests = []
    for place in (None, 0, 2**20 - 1, len(content) - 1, len(content) - 2**20, len(content)):
        changed = content if place is None else content[:place] + b"x" + content[place + 1 :]
        (tmp_path / "file").write_bytes(changed)
        digests.append(glance(tmp_path / "file"))
    assert len(set(digests)) == len(digests)
    with pytest.raises(InputError, match="cannot read"):
        glance(tmp_path / "missing")
