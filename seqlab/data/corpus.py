"""Text to tables of ids, once: prepared corpora lie in a cache folder under their fingerprint.

    CACHE/<fingerprint>/train, validation, test   tables (Arrow, by `datasets`), a row per sequence
                        tokenizer.json            trained on the training split
                        facts.json                about source, tokenizer and splits, for run.json
                        manifest.json             SHA-256 of every file

A row holds `tokens`, list of int32: end mark, ids of the text, end mark; `length`, the number of predictions, which is
one less; `bytes`, what bits per byte count: the UTF-8 bytes of the text and 1 for its end, which stands for a NUL.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from seqlab.data.source import SPLITS, Source
from seqlab.errors import DataError, InputError
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import TokenizerTrainer

_FORMAT = 1  # raise it whenever the same text would be stored differently
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: memory-mapped tables by split, their tokenizer, and facts for run.json.

    `fingerprint` is of the text and the tokenizer, `source` of the text alone.
    """

    tokenizer: Tokenizer
    splits: dict[str, datasets.Dataset]
    fingerprint: str
    source: str
    facts: dict[str, Any]


def prepare(source: Source, tokenizer: TokenizerTrainer, cache_dir: str | os.PathLike[str]) -> Corpus:
    """The corpus of a source and a tokenizer: read from the cache, or made and put there.

    Processes that want the same corpus at once wait for one of them to make it. A folder appears under its final name
    complete; one that was damaged since is made anew, with a warning.

    Raises:
        InputError: the cache folder cannot be written, or what source or tokenizer have to say against their input.
        DataError: writing the tables failed.
    """
    parts = (source.fingerprint(), tokenizer.fingerprint(), _FORMAT)
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = Path(cache_dir).expanduser().resolve() / fingerprint
    with _only_one(folder.with_suffix(".lock")):
        damage = _damage(folder) if folder.exists() else "missing"
        if damage:
            if folder.exists():
                warnings.warn(f"prepared corpus {folder} is damaged ({damage}); preparing it anew", stacklevel=2)
                shutil.rmtree(folder)
            _make(folder, source, tokenizer)
        return _load(folder, fingerprint, parts[0])


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold a lock that the system lets go when its process ends, however it ends."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {lock.parent}: {error}; set SEQLAB_CACHE=FOLDER in the environment"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, source: Source, trainer: TokenizerTrainer) -> None:
    """Write beside, then rename."""
    texts = source.read()
    tokenizer = trainer.train(texts["train"])
    tables = {split: _table(texts[split], tokenizer) for split in SPLITS}
    facts = {
        "source": source.facts(),
        "tokenizer": {"end_token": tokenizer.end_token, "size": len(tokenizer), "lossless": tokenizer.lossless},
        "splits": {
            split: {
                "sequences": len(table),
                "tokens": int(np.sum(table.data["length"])),
                "bytes": int(np.sum(table.data["bytes"])),
            }
            for split, table in tables.items()
        },
    }
    beside = folder.with_suffix(".partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # left by a process that was killed
        datasets.disable_progress_bars()
        for split, table in tables.items():
            table.save_to_disk(beside / split)
        tokenizer.save(beside / "tokenizer.json")
        (beside / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        manifest = {str(file.relative_to(beside)): _digest(file) for file in beside.rglob("*") if file.is_file()}
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        beside.rename(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DataError(
            f"cannot store the prepared corpus in {folder}: {error}; SEQLAB_CACHE=FOLDER chooses another place"
        ) from error


def _table(texts: list[str], tokenizer: Tokenizer) -> datasets.Dataset:
    batches = [_batch(texts[start : start + _ROWS_AT_ONCE], tokenizer) for start in range(0, len(texts), _ROWS_AT_ONCE)]
    table = datasets.table.InMemoryTable(pa.Table.from_batches(batches))
    return datasets.Dataset(table, fingerprint="prepared")  # or it would hash the tokens to name itself


def _batch(texts: list[str], tokenizer: Tokenizer) -> pa.RecordBatch:
    rows = [[tokenizer.end, *ids, tokenizer.end] for ids in tokenizer.encode(texts)]
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.fromiter(chain.from_iterable(rows), np.int32, offsets[-1])
    sizes = np.array([len(text.encode()) for text in texts])
    return pa.record_batch(
        {
            "tokens": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens)),
            "length": pa.array(lengths - 1, pa.int64()),
            "bytes": pa.array(sizes + 1, pa.int64()),
        }
    )


def _damage(folder: Path) -> str | None:
    """What is wrong with a prepared corpus, if anything. Reads every byte: about a second per gigabyte or two."""
    try:
        manifest: dict[str, str] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        wrong = [name for name, digest in manifest.items() if _digest(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{', '.join(wrong)} changed" if wrong else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load(folder: Path, fingerprint: str, source: str) -> Corpus:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Corpus(
        tokenizer=Tokenizer.load(folder / "tokenizer.json", facts["tokenizer"]["end_token"]),
        splits={split: datasets.Dataset.load_from_disk(folder / split) for split in SPLITS},
        fingerprint=fingerprint,
        source=source,
        facts=facts,
    )
