"""What an example of a task is, and how a record becomes one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError, counted
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies

Truth = str | float | list[str]


class Preprocessor(Protocol):
    """Turns records into the rows of a prepared table, whose columns `examples.py` describes.

    fields    that a record must have to be learned from
    policies  what may become of a row that is too long (`batch.over_long`); the first is what null means
    """

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def policies(self) -> tuple[str, ...]: ...

    def example(self, fields: Collection[str] = ()) -> str:
        """An item to try a model with that was trained on records with these fields, as JSON."""
        ...

    def fingerprint(self) -> str:
        """Equal for forms that make the same rows of the same records and vocabularies."""
        ...

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        """Everything that is learned from the training split."""
        ...

    def rows(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        """A row for every record, in order; without those that cannot be used, which go to `rejects`.

        What is to be predicted may be missing altogether: the rows then have no targets, and serve to predict.
        """
        ...

    def record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The fields to predict from, of what somebody sends, such as {"text": "A fine film."}.

        Raises:
            ValueError: they are not there, or of another kind; says what is expected.
        """
        ...

    def told(self, answer: Any, record: Mapping[str, Any], vocabularies: Vocabularies) -> dict[str, Any]:
        """A task's answer to an example, for people: plain values that JSON can hold."""
        ...

    def item(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        """What is read of a single example, as somebody may send it."""
        ...

    def truth(self, example: Batch, vocabularies: Vocabularies) -> Truth:
        """What a single example should be answered with, as the first value of `told` tells what it is."""
        ...


def require_fields(preprocessor: Preprocessor, records: pa.Table, columns: bool) -> None:
    """Whether the records have what the preprocessor reads.

    Args:
        columns: whether their source has columns that can be named.

    Raises:
        InputError: a field is missing.
    """
    if missing := [name for name in preprocessor.fields if name not in records.column_names]:
        there = ", ".join(name for name in records.column_names if name != "origin") or "none"
        names = " ".join(f"data.columns.{name}=COLUMN" for name in missing)
        raise InputError(
            f"the task reads {' and '.join(preprocessor.fields)}, and the data has {there}: "
            f"{' and '.join(missing)} missing; "
            f"{f'name the column with {names}, or ' if columns else ''}choose another task= or data="
        )


def values(records: pa.Table, field: str) -> list[Any] | None:
    """A field of all records; None where they have none."""
    return records.column(field).to_pylist() if field in records.column_names else None


def origin(records: pa.Table, row: int) -> str:
    """Where a record comes from, for messages."""
    if "origin" in records.column_names:
        return str(records.column("origin")[row].as_py())
    return f"record {row + 1}"


def lists(rows: Sequence[Sequence[Any]], kind: Any = np.int32) -> pa.ListArray:
    """A column of lists of numbers."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    numbers = np.fromiter(chain.from_iterable(rows), kind, offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers))


def table(lengths: Iterable[int], sizes: Iterable[int], **columns: pa.ListArray) -> pa.Table:
    """Rows of a prepared table: what is read and predicted, the tokens read, the bytes that targets stand for."""
    numbers = {"length": pa.array(lengths, pa.int64()), "bytes": pa.array(sizes, pa.int64())}
    return pa.table({**columns, **numbers})


def text_of(item: Mapping[str, Any], *names: str) -> str:
    """The text that stands under the first of these names that there is.

    Raises:
        ValueError: there is none, or it is no text.
    """
    found = [item[name] for name in names if isinstance(item.get(name), str)]
    if not found:
        raise ValueError(f'expected an object such as {{"{names[0]}": "Some text."}}')
    text: str = found[0]
    return text


def label_names(found: Iterable[str], ignored: Sequence[str]) -> tuple[str, ...]:
    """The names of labels in the order of their ids: sorted, without those that are not to be predicted.

    Raises:
        InputError: fewer than two are left.
    """
    names = tuple(sorted(set(found) - set(ignored)))
    if len(names) < 2:
        raise InputError(
            f"the training data has {counted(len(names), 'label')} to predict ({', '.join(names) or 'none'}), and at "
            "least 2 are needed: look at data.columns and form.ignored"
        )
    return names
