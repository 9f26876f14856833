"""A trained model at work: what people send goes in, what the model answers comes out, in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch

from seqlab import bundle
from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.data.examples import Examples
from seqlab.data.plan import make_plan
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError, counted
from seqlab.layers.device import choose_device
from seqlab.layers.native import heap
from seqlab.models.decoding import Decoding

TOKENS_AT_ONCE = 8192  # bounds the memory that activations and states take; answers do not depend on it
ITEMS_AT_ONCE = 1024  # among so many, those of similar length are answered together; this bounds how far is read ahead
CHARACTERS_AT_ONCE = 2**22  # and so does this, where items are long
CANDIDATES = 5  # for a mask, told where nobody asks for another number of them
NO_RANKS = "this model lists neither classes nor candidates for a mask"


def load(path: Path | str, trust: str | Collection[str] = (), device: str = "auto") -> Predictor:
    """A trained model, ready to answer.

    Args:
        path: a bundle, or the run folder that holds one.
        trust: a module of your own whose classes the bundle may name, or several.
        device: "auto" is an accelerator where there is one.

    Raises:
        InputError: there is no bundle, it is damaged, it names code that is not trusted, or there is no such device.
    """
    loaded = bundle.load(path, {trust} if isinstance(trust, str) else trust)
    loaded.task.model.to(choose_device(device))
    return Predictor(loaded)


class TooLongError(InputError):
    """An item has more tokens than the model knows positions."""


@dataclass(frozen=True, eq=False)
class Request:
    """An item that has been read and tokenized, ready to be answered.

    record  its fields
    row     of a prepared table
    given   how many tokens it has
    tokens  how many of them the model reads
    """

    record: Mapping[str, Any]
    row: pa.Table
    given: int
    tokens: int


class Predictor:
    """Answers with a trained model."""

    def __init__(self, bundle: Bundle) -> None:
        self.task, self.preprocessor, self.vocabularies = bundle.task, bundle.preprocessor, bundle.vocabularies
        self.example = bundle.preprocessor.sample_input(bundle.fields)
        self.fields = bundle.fields
        # What training would have split or refused is not cut.
        cuts = bundle.over_long == "truncate" and bundle.preprocessor.cuts_inputs
        self.longest = bundle.max_length if cuts else None
        self.room, self.most_words = self.task.max_length, self.task.max_words
        self.task.model.eval()

    def predict(
        self,
        items: Iterable[Mapping[str, Any]],
        decoding: Decoding | None = None,
        seed: int = 0,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """What the model says to each item, such as {"label": "positive", ...} to {"text": "A fine film."}.

        Items of any lengths share a batch; a text to be classified is cut as in training. Where something is drawn,
        each draws from a generator of its own, seeded by `seed` and its place, so that the same item in the same place
        is always answered alike.

        Args:
            items: what `Preprocessor.parse_input` reads, such as `example`.
            decoding: of a model that writes; None: the one it is evaluated with.
            seed: of what is drawn.
            top_k: of classes, or of the 20 candidates for a mask that are known, tell the so many likeliest with their
                probabilities, and all classes that are chosen; None: all classes, 5 candidates.

        Raises:
            InputError: an item is too long for the model, or `top_k` does not fit it.
            ValueError: an item is of another kind.
        """
        return list(self.stream(items, decoding, seed, top_k))

    def stream(
        self,
        items: Iterable[Mapping[str, Any]],
        decoding: Decoding | None = None,
        seed: int = 0,
        top_k: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The answers of `predict`, as they come. No more than 1024 items are read ahead, and held, nor more than were
        answered before, and one.

        Where reading an item raises, all before it are answered first.
        """
        if top_k is not None and (top_k < 1 or not self.preprocessor.ranks_candidates):
            wrong = "expected at least 1, or null" if top_k < 1 else NO_RANKS
            raise InputError(f"top_k={top_k}: {wrong}; drop it")
        first = 0
        for window in _windows(items):
            requests, problem = self.read_first(window, first)
            for answer in self.answers(requests, decoding, seed, first):
                yield likeliest(answer, top_k)
            if problem is not None:
                raise problem
            first += len(window)
            heap.trim()

    def record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an item that are read.

        Raises:
            ValueError: it is of another kind; says what is expected.
        """
        if "pair" in self.fields and "pair" not in item:
            raise ValueError(f'the model reads pairs: expected an object such as {self.example}; "pair": null is none')
        record = self.preprocessor.parse_input(item)
        if self.fields and "pair" in record and "pair" not in self.fields:
            raise ValueError(f'the model reads single texts: expected an object such as {self.example}, and no "pair"')
        return record

    def least(self, item: Mapping[str, Any]) -> int:
        """How many tokens it has at least, known before it is tokenised; 0 where nobody knows, or cannot read it."""
        known = self.vocabularies
        widest = [tokenizer.widest for tokenizer in (known.tokenizer, known.written)]
        try:
            characters = sum(len(value) for value in self.record(item).values() if isinstance(value, str))
        except ValueError:
            return 0
        return characters // max(filter(None, widest)) if None not in widest else 0

    def read(self, items: Sequence[Mapping[str, Any]]) -> list[Request]:
        """The items as the model reads them.

        Raises:
            TooLongError: an item is too long for the model.
            ValueError: an item is of another kind.
        """
        records = [self.record(item) for item in items]
        if not records:
            return []
        known = dict.fromkeys(name for record in records for name in record)
        columns = {name: [record.get(name) for record in records] for name in known}  # not all have a pair
        rows = self.preprocessor.tokenize(pa.table(columns), self.vocabularies, Rejects())
        lengths = rows.column("length").to_pylist()
        read = [min(length, self.longest or length) for length in lengths]
        begun = [1] * len(rows)  # of a target; source and target have positions of their own
        if "written" in rows.column_names:
            begun = pc.list_value_length(rows.column("written")).to_pylist()
        most = max(max(tokens + 1 - target, target) for tokens, target in zip(read, begun, strict=True))
        if self.room is not None and most > self.room:
            raise TooLongError(f"{counted(most, 'token')}, and this model knows {self.room} positions: cut it")
        words = max(len(record.get("words", ())) for record in records)
        if self.most_words is not None and words > self.most_words:
            raise TooLongError(f"{counted(words, 'word')}, and this model knows {self.most_words} positions: cut it")
        return [Request(record, rows.slice(i, 1), lengths[i], read[i]) for i, record in enumerate(records)]

    def read_first(
        self, items: Sequence[Mapping[str, Any]], first: int = 0
    ) -> tuple[list[Request], InputError | ValueError | None]:
        """The items up to the first that cannot be read, and why it cannot; its number counts on from `first`."""
        try:
            return self.read(items), None
        except (InputError, ValueError):
            requests = []
            for number, item in enumerate(items, start=first + 1):
                try:
                    requests += self.read([item])
                except InputError as error:
                    return requests, type(error)(f"item {number}: {error}")
                except ValueError as error:  # of which some kinds, as of wrong Unicode, take more than a message
                    return requests, ValueError(f"item {number}: {error}")
            raise  # all can be read, one by one

    def batch(self, requests: Sequence[Request]) -> Batch:
        """These, in their order, on the model's device."""
        examples = self.examples(requests)
        batch = examples.batch(range(len(examples)))
        return batch.select(torch.argsort(batch.ids)).to(self.device)

    def examples(self, requests: Sequence[Request]) -> Examples:
        """These, as a split."""
        rows = pa.concat_tables([one.row for one in requests]).combine_chunks()
        return Examples(as_dataset(rows), self.longest, "truncate")

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.task.model.parameters()).device

    def answers(
        self, requests: Sequence[Request], decoding: Decoding | None = None, seed: int = 0, first: int = 0
    ) -> list[dict[str, Any]]:
        """What the model says to each; `first` is the place of the first one, by which what is drawn is seeded."""
        if not requests:
            return []
        examples = self.examples(requests)
        told: dict[int, dict[str, Any]] = {}
        plan = make_plan(examples.lengths, max(TOKENS_AT_ONCE, int(examples.lengths.max())), 1, None, 0)
        for i in range(len(plan)):
            batch = examples.batch(plan[i])
            answers = self.task.predict(replace(batch, ids=batch.ids + first).to(self.device), decoding, seed)
            for example, answer in zip(batch.ids.tolist(), answers, strict=True):
                told[example] = self.preprocessor.format_prediction(answer, requests[example].record, self.vocabularies)
        return [told[example] for example in range(len(requests))]


def as_dataset(rows: pa.Table) -> datasets.Dataset:
    """A prepared table that lies in memory alone."""
    return datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint="requests")


def likeliest(answer: dict[str, Any], top_k: int | None) -> dict[str, Any]:
    """An answer with so many classes only, and those that are chosen, or so many candidates for each mask: they stand
    likeliest first. None: all classes, 5 candidates."""
    if "masks" in answer:
        return {**answer, "masks": [place[: top_k or CANDIDATES] for place in answer["masks"]]}
    if top_k is None:
        return answer
    chosen = label if isinstance(label := answer.get("label"), list) else ()
    ranked = enumerate(answer["probabilities"].items())
    return {**answer, "probabilities": {name: p for rank, (name, p) in ranked if rank < top_k or name in chosen}}


def _windows(items: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The items in lists of 1, 2, 4, ... at most 1024 of them, so that the first answers come soon; what was read
    before an item that raises comes first."""
    window: list[Mapping[str, Any]] = []
    most, characters = 1, 0
    try:
        for item in items:
            window.append(item)
            characters += sum(len(value) for value in item.values() if isinstance(value, str | list))
            if len(window) == most or characters >= CHARACTERS_AT_ONCE:
                yield window
                window, most, characters = [], min(2 * most, ITEMS_AT_ONCE), 0
    except InputError:
        if window:
            yield window
        raise
    if window:
        yield window
