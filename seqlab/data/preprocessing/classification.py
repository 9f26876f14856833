"""Preprocessing for classification: a text, or a pair of texts, and its class, classes, or number."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.preprocessing.preprocessor import Preprocessor, Reference, label_names, lists, origin, table, values
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError, did_you_mean
from seqlab.ragged import IGNORED
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies

_LARGEST = float(np.finfo(np.float32).max)
_PAIR = '{"text": "Is it far?", "pair": "Two miles."}'
_MANY = 10  # so many whole numbers may be the names of classes, however few rows there are
_ADVICE = "all of them numbers: form.answer=number learns quantities"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassificationPreprocessor(Preprocessor):
    """The tokens of the text behind an end mark, and, where there is a `pair`, those of it behind another.

    answer   "one": a class for each text; "many": any number of classes, given as a list, or as names joined by `join`,
             of which an empty label has none; "number": a real number
    ignored  classes that are not predicted: a text that has one counts for nothing; of many, it is as if it had not
    join     what separates the classes of a text where they are one string
    """

    answer: Literal["one", "many", "number"] = "one"
    ignored: tuple[str, ...] = ()
    join: str = ","

    fields = ("text", "label")
    policies = ("truncate", "drop", "error")

    def __post_init__(self) -> None:
        if not self.join:
            raise InputError("form.join is empty: expected what separates the classes of a text, such as ','")

    def sample_input(self, fields: Collection[str] = ()) -> str:
        return _PAIR if "pair" in fields else '{"text": "A fine film."}'

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        texts = [*records.column("text").to_pylist(), *(values(records, "pair") or ())]
        trained = tokenizer.train(texts)
        if self.answer == "number":
            return Vocabularies(trained)
        found = [name for label in records.column("label").to_pylist() for name in self.classes(label)]
        names = label_names(found, self.ignored)
        if _quantities(found, names):
            logger.warning("%s", f"{len(names):,} classes, {_ADVICE}")
        return Vocabularies(trained, labels=names)

    def tokenize(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        texts, pairs, labels = (values(records, field) for field in ("text", "pair", "label"))
        assert texts is not None
        targets = [[] if labels is None else self.target(label, vocabularies) for label in labels or texts]
        usable = [isinstance(target, list) for target in targets]
        quantities = (
            self.answer != "number"
            and labels is not None
            and not all(usable)
            and _quantities(labels, vocabularies.labels or ())
        )
        for row, target in enumerate(targets):
            if isinstance(target, str):
                assert labels is not None
                reason = "wrong label" if self.answer == "number" else "unknown label"
                if quantities:
                    target = f"{target}; the classes are {_ADVICE}"
                rejects.add(origin(records, row), reason if labels[row] else "empty label", target)
        encode, end = vocabularies.tokenizer.encode, vocabularies.tokenizer.end
        tokens = [[end, *ids] for ids in encode(texts)]
        if pairs is not None:
            second = encode([pair or "" for pair in pairs])
            tokens = [
                row if pair is None else [*row, end, *ids] for row, pair, ids in zip(tokens, pairs, second, strict=True)
            ]
        kept = [row for row, keep in enumerate(usable) if keep]
        return table(
            [len(tokens[row]) for row in kept],
            [len(texts[row].encode()) for row in kept],
            tokens=lists([tokens[row] for row in kept]),
            targets=lists([targets[row] for row in kept], np.float32 if self.answer == "number" else np.int32),
        )

    def classes(self, label: str | Iterable[str]) -> list[str]:
        """Return the names in a label."""
        if not isinstance(label, str):
            return list(label)
        if self.answer == "one":
            return [label] if label else []
        return [name.strip() for name in label.split(self.join) if name.strip()]

    def target(self, label: Any, vocabularies: Vocabularies) -> list[int] | list[float] | str:
        """Return the ids or the number of a label; where it has none, a message that says why."""
        if label == "" and self.answer != "many":
            return "the label is empty" + ("; form.answer=many takes that for no class" if self.answer == "one" else "")
        if self.answer == "number":
            number = _number(label)
            return [number] if abs(number) <= _LARGEST else f"the label {label!r} is no number; see form.answer"
        names = self.classes(label)
        if self.answer == "one" and len(names) != 1:
            return f"{len(names)} labels where one is expected; form.answer=many takes any number"
        known = vocabularies.label_ids
        strange = [name for name in names if name not in known and name not in self.ignored]
        if strange:
            hint = did_you_mean(strange[0], known) if math.isnan(_number(strange[0])) else ""
            return f"the label {strange[0]!r} does not occur in the training data{hint}"
        if self.answer == "many":
            return [known[name] for name in dict.fromkeys(names) if name in known]
        return [known.get(names[0], IGNORED)]

    @property
    def ranks_candidates(self) -> bool:
        return self.answer != "number"

    def parse_input(self, given: Mapping[str, Any]) -> dict[str, Any]:
        fields = {name: given[name] for name in ("text", "pair") if name in given}
        if fields.get("pair", "") is None:
            del fields["pair"]
        if "text" not in fields or not all(isinstance(value, str) for value in fields.values()):
            raise ValueError(f"expected an object such as {self.sample_input()}, or of two texts {_PAIR}")
        return fields

    def format_prediction(
        self, prediction: Any, record: Mapping[str, Any], vocabularies: Vocabularies
    ) -> dict[str, Any]:
        """Return the label of a prediction, which is the probability of each class, [C], or a number."""
        if self.answer == "number":
            return {"label": float(prediction)}
        names = vocabularies.labels or ()
        probabilities = dict(sorted(zip(names, prediction.tolist(), strict=True), key=lambda pair: -pair[1]))
        if self.answer == "many":
            return {"label": [n for n, p in probabilities.items() if p > 0.5], "probabilities": probabilities}
        return {"label": next(iter(probabilities)), "probabilities": probabilities}

    def format_input(self, example: Batch, vocabularies: Vocabularies) -> dict[str, Any]:
        tokens = example.tokens.values
        ends = (tokens == vocabularies.tokenizer.end).nonzero().flatten()
        texts = [vocabularies.tokenizer.decode(text.tolist()) for text in tokens.tensor_split(ends.cpu())[1:]]
        return dict(zip(("text", "pair"), texts, strict=False))

    def format_reference(self, example: Batch, vocabularies: Vocabularies) -> Reference:
        targets = example.targets.values.tolist()
        if self.answer == "number":
            return float(targets[0])
        names = [(vocabularies.labels or ())[target] if target >= 0 else "?" for target in targets]
        return names if self.answer == "many" else names[0]


def _number(label: Any) -> float:
    """What a label says as a number; nan where it is none."""
    try:
        return float(label)
    except (TypeError, ValueError):
        return math.nan


def _quantities(labels: Collection[Any], names: Sequence[str]) -> bool:
    """Whether the names of classes look like quantities: all are numbers, and one has a fraction, or most of the labels
    that were given are unlike all others."""
    numbers = [_number(name) for name in names]
    if not all(map(math.isfinite, numbers)):
        return False
    return any(number % 1 for number in numbers) or len(set(map(str, labels))) > max(_MANY, len(labels) / 2)
