"""Data sets of the Hugging Face Hub, or of a folder that is laid out like one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub.utils import logging

from seqlab.data.records import BY_FIELD, Columns
from seqlab.data.rejects import OnError, Rejects
from seqlab.data.sources.parquet import ROWS_AT_ONCE, rows
from seqlab.data.sources.source import Source
from seqlab.data.sources.splits import tables
from seqlab.errors import InputError, did_you_mean

_SETTINGS = {"train": "data.splits.train", "validation": "data.splits.validation", "test": "data.splits.test"}


@dataclass(frozen=True)
class SplitNames:
    """What the data set calls its splits. Where one is None, it is cut from `train`."""

    train: str = "train"
    validation: str | None = "validation"
    test: str | None = "test"


@dataclass(frozen=True)
class HubDataset(Source):
    """A data set that `datasets.load_dataset` finds. Code that comes with a data set is never run.

    path          its name on the Hub, such as `stanfordnlp/imdb`, or a folder
    name          its configuration, where it has several
    revision      branch, tag or commit; `refs/convert/parquet` is where the Hub keeps those that once came with code
    splits        what its splits are called; without one, 10 % of train, chosen by a hash
    columns       the column of each field; one inside a column of objects as `translation.en`
    on_error      what becomes of a row that cannot be used: "raise", or "skip", which counts it
    max_rejected  the share of a split's rows that may be skipped

    Raises:
        InputError: max_rejected is no share; on reading, the data set cannot be had, it has no such split or column,
            too many of its rows cannot be used, or a split is empty.
    """

    path: str
    name: str | None = None
    revision: str | None = None
    splits: SplitNames = SplitNames()
    columns: Columns = BY_FIELD
    on_error: OnError = "raise"
    max_rejected: float = 0.1

    def __post_init__(self) -> None:
        Rejects(self.on_error, self.max_rejected)

    def fingerprint(self) -> str:
        """From the commit on the Hub, or from the names, sizes and times of the files of a folder."""
        found = self._loaded(datasets.load_dataset_builder)
        return hashlib.sha256(f"{self!r} {found.hash}".encode()).hexdigest()

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        found = self._loaded(datasets.load_dataset)
        given = {}
        for split, name in vars(self.splits).items():
            if name is None:
                continue
            if name not in found:
                raise InputError(
                    f"{_SETTINGS[split]}={name}: data.path={self.path} has no such split{did_you_mean(name, found)}; "
                    f"it has {', '.join(found)}; null cuts 10 % from train"
                )
            batches = found[name].with_format("arrow").iter(ROWS_AT_ONCE)
            features = found[name].features
            where = f"{self.path}, {name}"
            given[split] = rows(batches, features.arrow_schema, features.flatten(), self.columns, where)
        return tables(given, rejects, _SETTINGS)

    def metadata(self) -> dict[str, Any]:
        return {"hub": self.path, "name": self.name, "revision": self.revision}

    def _loaded(self, load: Callable[..., Any]) -> Any:
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # nothing about every one of its attempts
        try:
            return load(self.path, self.name, revision=self.revision)
        except ConnectionError as error:
            raise InputError(
                f"data.path={self.path}: the Hugging Face Hub cannot be reached, and the data set is not in the cache "
                f"({error}). Where there is a network, load it once and bring the folder that HF_HOME names; or save "
                "it as files, and use data=parquet or data=json with data.path=FILE"
            ) from error
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            scripted = "scripts are no longer supported" in str(error)
            advice = (
                "try data.revision=refs/convert/parquet" if scripted else "see data.path=, data.name=, data.revision="
            )
            raise InputError(f"data.path={self.path} cannot be loaded: {error}; {advice}") from error
        finally:
            logging.set_verbosity(verbosity)
