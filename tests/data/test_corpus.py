"""Prepared once, read ever after; what is damaged is made anew; processes do not get in each other's way."""

from __future__ import annotations

import json
import multiprocessing
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqlab.data import corpus as corpus_module
from seqlab.data.corpus import Corpus, prepare
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.rejects import Rejects
from seqlab.data.sources.source import SPLITS, Source
from seqlab.errors import DataError, InputError
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import BytePairs, Bytes, TokenizerTrainer, Words

TEXTS = {
    "train": [f"{'né ' * (i % 7)}the row {i}" for i in range(40)] + [""],
    "validation": ["only only"],
    "test": ["a b c", "日本", "x" * 50],
}


@dataclass(frozen=True)
class Memory(Source):
    """A source that remembers in a file how often it was read."""

    log: Path
    name: str = "memory"
    seconds: float = 0

    def fingerprint(self) -> str:
        return self.name

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        with self.log.open("a") as file:
            file.write("read\n")
        time.sleep(self.seconds)
        return {split: pa.table({"text": texts}) for split, texts in TEXTS.items()}

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name}

    def times_read(self) -> int:
        return len(self.log.read_text().split())


@dataclass(frozen=True)
class Untouched:
    """A trainer that must not be asked: what it would make is in the cache."""

    like: TokenizerTrainer

    def train(self, texts: Iterable[str]) -> Tokenizer:
        raise AssertionError("trained again")

    def fingerprint(self) -> str:
        return self.like.fingerprint()


def rows(corpus: Corpus) -> dict[str, list[dict[str, Any]]]:
    return {split: list(table) for split, table in corpus.splits.items()}


@pytest.fixture
def source(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "log")


def test_rows_are_marked_and_counted(source: Memory, tmp_path: Path) -> None:
    corpus = prepare(source, LanguageModelingPreprocessor(), BytePairs(270), tmp_path / "cache")
    assert list(corpus.splits) == list(SPLITS)
    end = corpus.vocabularies.tokenizer.end
    for split, texts in TEXTS.items():
        table = corpus.splits[split]
        assert table.column_names == ["tokens", "length", "bytes"]
        assert str(table.data.column("tokens").type.value_type) == "int32"
        for row, text in zip(table, texts, strict=True):
            first, *ids, last = row["tokens"]
            assert (first, last) == (end, end)
            assert corpus.vocabularies.tokenizer.decode(ids) == text
            assert row["length"] == len(ids) + 1
            assert row["bytes"] == len(text.encode()) + 1
    totals = {"sequences": 3, "tokens": sum(corpus.splits["test"]["length"]), "bytes": 5 + 6 + 50 + 3}
    assert corpus.metadata["splits"]["test"] == totals
    assert corpus.metadata["source"] == {"name": "memory"}
    assert corpus.metadata["tokenizer"]["lossless"] is True


def test_only_the_training_split_teaches_the_tokenizer(source: Memory, tmp_path: Path) -> None:
    corpus = prepare(source, LanguageModelingPreprocessor(), Words(100), tmp_path / "cache")
    unknown = corpus.vocabularies.tokenizer.encode(["never seen"])[0][0]
    assert corpus.splits["validation"][0]["tokens"][1:-1] == [unknown] * 2


def test_the_second_time_nothing_is_read_or_trained(source: Memory, tmp_path: Path) -> None:
    first = prepare(source, LanguageModelingPreprocessor(), BytePairs(270), tmp_path / "cache")
    start = time.perf_counter()
    second = prepare(source, LanguageModelingPreprocessor(), Untouched(BytePairs(270)), tmp_path / "cache")
    assert time.perf_counter() - start < 1
    assert source.times_read() == 1
    assert rows(second) == rows(first)
    assert second.fingerprint == first.fingerprint
    assert second.vocabularies.digest == first.vocabularies.digest
    assert second.metadata == first.metadata


def test_another_source_tokenizer_or_format_is_another_corpus(
    source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    prints = {
        prepare(source, LanguageModelingPreprocessor(), BytePairs(270), cache).fingerprint,
        prepare(source, LanguageModelingPreprocessor(), Bytes(), cache).fingerprint,
    }
    prints.add(prepare(Memory(source.log, "other"), LanguageModelingPreprocessor(), Bytes(), cache).fingerprint)
    monkeypatch.setattr(corpus_module, "_FORMAT", 0)
    prints.add(prepare(source, LanguageModelingPreprocessor(), Bytes(), cache).fingerprint)
    assert len(prints) == 4


FILES = ["tokenizer.json", "metadata.json", "manifest.json", "train/state.json", "test/data-00000-of-00001.arrow"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "shorter", "one bit"])
def test_damage_is_noticed_and_repaired(name: str, damage: str, source: Memory, tmp_path: Path) -> None:
    good = prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    file, expected = tmp_path / "cache" / good.fingerprint / name, rows(good)
    del good  # whoever still maps a file that is cut dies of SIGBUS: there is no defence against that
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "shorter":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        repaired = prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    assert rows(repaired) == expected
    assert source.times_read() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(source, LanguageModelingPreprocessor(), Untouched(Bytes()), tmp_path / "cache")


def test_what_a_killed_process_left_is_no_obstacle(source: Memory, tmp_path: Path) -> None:
    fingerprint = prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "a").fingerprint
    (tmp_path / "b" / f".{fingerprint}.tmp" / "train").mkdir(parents=True)
    (tmp_path / "b" / f"{fingerprint}.lock").write_text("")
    prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [fingerprint, f"{fingerprint}.lock"]


def test_nothing_half_written_where_preparing_fails(
    source: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_room)
        with pytest.raises(DataError, match=r"No space left.*SEQLAB_CACHE="):
            prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")


def test_a_cache_that_cannot_be_written(source: Memory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache.*SEQLAB_CACHE="):
        prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "file" / "cache")


def prepare_and_report(log: Path, cache: Path, results: Any) -> None:
    corpus = prepare(Memory(log, seconds=0.3), LanguageModelingPreprocessor(), Bytes(), cache)
    results.put((corpus.fingerprint, len(corpus.splits["train"]), corpus.splits["test"][1]["tokens"]))


def test_processes_that_want_the_same_at_once(source: Memory, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=prepare_and_report, args=(source.log, tmp_path / "cache", results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert answers[0] == answers[1]
    assert source.times_read() == 1


def test_no_progress_bars_no_warnings(source: Memory, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(source, LanguageModelingPreprocessor(), BytePairs(270), tmp_path / "cache")
    prepare(source, LanguageModelingPreprocessor(), BytePairs(270), tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


def test_facts_are_json(source: Memory, tmp_path: Path) -> None:
    corpus = prepare(source, LanguageModelingPreprocessor(), Bytes(), tmp_path / "cache")
    assert json.loads((tmp_path / "cache" / corpus.fingerprint / "metadata.json").read_text()) == corpus.metadata
