"""The base class of preprocessors: records to the examples of a task, and predictions back to people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples
from seqlab.data.rejects import Rejects
from seqlab.data.windows import Windows
from seqlab.errors import InputError, counted
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies

Reference = str | float | list[str]


class Preprocessor(ABC):
    """Turns records into examples, and predictions into plain values.

    An input is what a person sends, a record the fields that are read of it or of a row of data, an example the tokens
    of a record. Examples stand in a prepared table, whose columns `seqlab/data/examples.py` describes.

    Attributes:
        fields: the fields that a record must have to be learned from.
        policies: what may become of an example that is too long (`batch.over_long`); null means the first. By default
            it is an error, or is dropped.
        streams: a split is read as one stream, whose batches have a size of their own. By default it is not.
        continues_text: the model continues a text, of which only the beginning is given. By default it does not.
        ranks_candidates: a prediction lists candidates with their probabilities, of which `top_k` can be asked for. By
            default it does not.
        cuts_inputs: an input that is too long is cut where training cuts examples (`batch.over_long=truncate`). This is
            the default; a text that is to be continued or filled is never cut.
        converts_tags: all tags are written in one scheme, so that it is known which tag may follow which. By default it
            is not known.
    """

    fields: ClassVar[tuple[str, ...]]
    policies: ClassVar[tuple[str, ...]] = ("error", "drop")
    streams: ClassVar[bool] = False
    continues_text: ClassVar[bool] = False
    cuts_inputs: ClassVar[bool] = True

    @abstractmethod
    def sample_input(self, fields: Collection[str] = ()) -> str:
        """Return an input, as JSON, to try a model with that was trained on records with these fields."""
        ...

    @abstractmethod
    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        """Return everything that is learned from the training split."""
        ...

    @abstractmethod
    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        """Return a row of a prepared table for every record, in order, except for records that cannot be used.

        These go to `rejects`. What is to be predicted may be missing altogether: the rows then have no targets, and
        serve to predict.
        """
        ...

    @abstractmethod
    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record of an input, such as {"text": "A fine film."}.

        Raises:
            ValueError: a field is missing or of another kind; the message says what is expected.
        """
        ...

    @abstractmethod
    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return a task's prediction for an example as plain values that JSON can hold, the main one first.

        Args:
            prediction: what `Task.predict` returns for an example.
            record: what the example was made of; {} where that is not known.
            vocabularies: those of the model.
        """
        ...

    @abstractmethod
    def format_input(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        """Return the input that a single example could have been made of."""
        ...

    @abstractmethod
    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> Reference:
        """Return the reference of a single example, in the form of the first value of `format_prediction`."""
        ...

    def fingerprint(self) -> str:
        """Return a text that is equal for preprocessors that make the same examples.

        By default it is `repr(self)`, in which a dataclass lists its settings.
        """
        return repr(self)

    def make_examples(self, table: datasets.Dataset, max_length: int, over_long: str) -> Examples | Windows:
        """Return the examples of a prepared table. By default one for each row that is not too long.

        Raises:
            InputError: see `Examples`.
        """
        return Examples(table, max_length, over_long)

    def tokens_per_batch(self, tokens: int) -> int:
        """Return the most tokens of a batch, where `batch.tokens` is `tokens`. By default that many."""
        return tokens

    @property
    def ranks_candidates(self) -> bool:
        return False

    @property
    def converts_tags(self) -> bool:
        return False


def require_fields(preprocessor: Preprocessor, records: pa.Table, columns: bool) -> None:
    """Raise `InputError` if the records lack a field that the preprocessor reads.

    Args:
        columns: whether their source has columns that can be named.
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
    """Return a field of all records; None where they have none."""
    return records.column(field).to_pylist() if field in records.column_names else None


def origin(records: pa.Table, row: int) -> str:
    """Return where a record comes from, for messages."""
    if "origin" in records.column_names:
        return str(records.column("origin")[row].as_py())
    return f"record {row + 1}"


def lists(rows: Sequence[Sequence[Any]], kind: Any = np.int32) -> pa.ListArray:
    """Return a column of lists of numbers."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    numbers = np.fromiter(chain.from_iterable(rows), kind, offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers))


def table(lengths: Iterable[int], sizes: Iterable[int], **columns: pa.ListArray) -> pa.Table:
    """Return a prepared table of what is read and predicted, the tokens read, and the bytes that targets stand for."""
    numbers = {"length": pa.array(lengths, pa.int64()), "bytes": pa.array(sizes, pa.int64())}
    return pa.table({**columns, **numbers})


def text_of(given: Mapping[str, Any], *names: str) -> str:
    """Return the text that an input has under the first of these names.

    Raises:
        ValueError: there is none, or it is no text.
    """
    found = [given[name] for name in names if isinstance(given.get(name), str)]
    if not found:
        raise ValueError(f'expected an object such as {{"{names[0]}": "Some text."}}')
    text: str = found[0]
    return text


def label_names(found: Iterable[str], ignored: Sequence[str]) -> tuple[str, ...]:
    """Return the names of labels in the order of their ids: sorted, without those that are not to be predicted.

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
