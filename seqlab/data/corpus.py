"""Records to tables of ids, once: prepared corpora lie in a cache folder under their fingerprint.

CACHE/<fingerprint>/train, validation, test   tables (Arrow, by `datasets`), a row per record; see examples.py
                    tokenizer.json, ...       what was learned from the training split
                    metadata.json                about source, vocabularies and splits, for run.json
                    manifest.json             SHA-256 of every file
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from seqlab.data.preprocessing.preprocessor import Preprocessor, require_fields
from seqlab.data.rejects import Rejects
from seqlab.data.sources.source import SPLITS, Source
from seqlab.errors import DataError, InputError, counted
from seqlab.storage.folders import new_folder, remove_folder
from seqlab.storage.locks import FileLock
from seqlab.storage.manifests import DamagedError, digests, read_manifest, verify, write_manifest
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import FILES, Vocabularies

_FORMAT = 4  # raise it whenever the same text would be stored differently
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: memory-mapped tables by split, their vocabularies, and metadata for run.json.

    `fingerprint` is of the records and what became of them, `source` of the records alone.
    """

    vocabularies: Vocabularies
    splits: dict[str, datasets.Dataset]
    fingerprint: str
    source: str
    metadata: dict[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        """What the records of training had."""
        return tuple(self.metadata.get("fields", ()))


def prepare(
    source: Source,
    preprocessor: Preprocessor,
    learned: TokenizerTrainer | Vocabularies,
    cache_dir: str | os.PathLike[str],
) -> Corpus:
    """The corpus of a source in a form: read from the cache, or made and put there.

    Processes that want the same corpus at once wait for one of them to make it. A folder appears under its final name
    complete; one that was damaged since is made anew, with a warning.

    Args:
        learned: what learns vocabularies from the training split, or those of a model.

    Raises:
        InputError: the cache folder cannot be written, or what source, form or tokenizer have to say against their
            input.
        DataError: writing the tables failed.
    """
    given = learned.digest if isinstance(learned, Vocabularies) else learned.fingerprint()
    rejects = Rejects(source.on_error, source.max_rejected)
    parts = (source.fingerprint(), preprocessor.fingerprint(), given, rejects.on_error, rejects.max_share, _FORMAT)
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = Path(cache_dir).expanduser().resolve() / fingerprint
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"), wait=True)
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {folder.parent}: {error}; set SEQLAB_CACHE=FOLDER in the environment"
        ) from error
    with lock:
        if folder.exists():
            try:
                verify(folder, read_manifest(folder))
            except DamagedError as error:
                warnings.warn(f"prepared corpus {folder} is damaged ({error}); preparing it anew", stacklevel=2)
                remove_folder(folder)
        if not folder.exists():
            _make(folder, source, preprocessor, learned, rejects)
        return _load(folder, fingerprint, parts[0])


def _make(
    folder: Path, source: Source, preprocessor: Preprocessor, learned: TokenizerTrainer | Vocabularies, rejects: Rejects
) -> None:
    """Read, tokenize and store a corpus."""
    records = source.read(rejects)  # which settles what cannot be read; here it is about what does not fit the form
    for split in SPLITS:
        require_fields(preprocessor, records[split], source.columns is not None)
    vocabularies = learned if isinstance(learned, Vocabularies) else preprocessor.learn(records["train"], learned)
    tables = {split: _table(split, records[split], preprocessor, vocabularies, rejects) for split in SPLITS}
    tokenizer = vocabularies.tokenizer
    metadata = {
        "source": source.metadata(),
        "fields": [name for name in records["train"].column_names if name != "origin"],
        "rejected": rejects.counts,
        "tokenizer": {"end_token": tokenizer.end_token, "size": len(tokenizer), "lossless": tokenizer.lossless},
        "labels": vocabularies.labels,
        "end_tokens": vocabularies.end_tokens,
        "splits": {
            split: {
                "sequences": len(table),
                "tokens": int(np.sum(table.data["length"])),
                "bytes": int(np.sum(table.data["bytes"])),
            }
            for split, table in tables.items()
        },
    }
    datasets.disable_progress_bars()
    try:
        with new_folder(folder) as beside:
            for split, table in tables.items():
                table.save_to_disk(beside / split)
            for name, content in vocabularies.files.items():
                (beside / name).write_bytes(content)
            (beside / "metadata.json").write_text(json.dumps(metadata, indent=1), encoding="utf-8")
            write_manifest(beside, digests(beside))
    except OSError as error:
        raise DataError(
            f"cannot store the prepared corpus in {folder}: {error}; SEQLAB_CACHE=FOLDER chooses another place"
        ) from error


def _table(
    split: str, records: pa.Table, preprocessor: Preprocessor, vocabularies: Vocabularies, rejects: Rejects
) -> datasets.Dataset:
    parts = []
    for start in range(0, len(records), _ROWS_AT_ONCE):
        some = records.slice(start, _ROWS_AT_ONCE)
        if "origin" not in records.column_names:
            some = some.append_column("origin", pa.array(f"{split}, record {start + i + 1}" for i in range(len(some))))
        parts.append(preprocessor.tokenize(some, vocabularies, rejects))
    rejects.settle(len(records), split)
    table = pa.concat_tables(parts)
    if not len(table):
        raise InputError(f"nothing is left for {split} of {counted(len(records), 'record')}: {rejects.counts}")
    # Named, or it would hash the tokens to name itself.
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="prepared")


def _load(folder: Path, fingerprint: str, source: str) -> Corpus:
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    return Corpus(
        vocabularies=Vocabularies.from_files(files, metadata["end_tokens"], folder),
        splits={split: datasets.Dataset.load_from_disk(folder / split) for split in SPLITS},
        fingerprint=fingerprint,
        source=source,
        metadata=metadata,
    )
