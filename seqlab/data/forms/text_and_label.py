"""A text, or a pair of texts, and what is said of it: a class, any number of classes, or a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from seqlab.data.batch import Batch
from seqlab.data.forms.form import label_names, lists, origin, table, text_of, values
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError, did_you_mean
from seqlab.ragged import IGNORED
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class TextAndLabel:
    """The tokens of the text behind an end mark, and, where there is a `pair`, those of it behind another.

    answer   "one": a class for each text; "many": any number of classes, given as a list, or as names joined by `join`;
             "number": a real number
    ignored  classes that are not predicted: a text that has one counts for nothing; of many, it is as if it had not
    join     what separates the classes of a text where they are one string
    """

    answer: Literal["one", "many", "number"] = "one"
    ignored: tuple[str, ...] = ()
    join: str = ","

    fields = ("text", "label")
    policies = ("truncate", "drop", "error")
    example = '{"text": "A fine film."}'

    def __post_init__(self) -> None:
        if not self.join:
            raise InputError("form.join is empty: expected what separates the classes of a text, such as ','")

    def fingerprint(self) -> str:
        return repr(self)

    def learn(self, records: pa.Table, tokenizer: TokenizerTrainer) -> Vocabularies:
        texts = [*records.column("text").to_pylist(), *(values(records, "pair") or ())]
        trained = tokenizer.train(texts)
        if self.answer == "number":
            return Vocabularies(trained)
        found = [name for label in records.column("label").to_pylist() for name in self.classes(label)]
        return Vocabularies(trained, labels=label_names(found, self.ignored))

    def rows(self, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects) -> pa.Table:
        texts, pairs, labels = (values(records, field) for field in ("text", "pair", "label"))
        assert texts is not None
        targets = [[] if labels is None else self.target(label, vocabularies) for label in labels or texts]
        usable = [isinstance(target, list) for target in targets]
        for row, target in enumerate(targets):
            if isinstance(target, str):
                rejects.add(origin(records, row), "unknown label" if self.answer != "number" else "wrong label", target)
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
        """The names in a label."""
        if not isinstance(label, str):
            return list(label)
        if self.answer == "one":
            return [label]
        return [name.strip() for name in label.split(self.join) if name.strip()]

    def target(self, label: Any, vocabularies: Vocabularies) -> list[int] | list[float] | str:
        """The ids or the number of a label; where it has none, a message that says why."""
        if self.answer == "number":
            try:
                number = float(label)
            except (TypeError, ValueError):
                number = math.nan
            return [number] if abs(number) <= _LARGEST else f"the label {label!r} is no number; see form.answer"
        names = self.classes(label)
        if self.answer == "one" and len(names) != 1:
            return f"{len(names)} labels where one is expected; form.answer=many takes any number"
        known = vocabularies.label_ids
        strange = [name for name in names if name not in known and name not in self.ignored]
        if strange:
            return f"the label {strange[0]!r} does not occur in the training data{did_you_mean(strange[0], known)}"
        if self.answer == "many":
            return [known[name] for name in dict.fromkeys(names) if name in known]
        return [known.get(names[0], IGNORED)]

    def record(self, item: Mapping[str, Any]) -> dict[str, Any]:
        pair = {"pair": text_of(item, "pair")} if "pair" in item else {}
        return {"text": text_of(item, "text"), **pair}

    def told(self, answer: Any, record: Mapping[str, Any], vocabularies: Vocabularies) -> dict[str, Any]:
        """Of the probability of each class, [C]; or of a number."""
        if self.answer == "number":
            return {"label": float(answer)}
        names = vocabularies.labels or ()
        probabilities = dict(sorted(zip(names, answer.tolist(), strict=True), key=lambda pair: -pair[1]))
        if self.answer == "many":
            return {"label": [n for n, p in probabilities.items() if p > 0.5], "probabilities": probabilities}
        return {"label": next(iter(probabilities)), "probabilities": probabilities}

    def shown(self, example: Batch, vocabularies: Vocabularies) -> tuple[str, str]:
        names, targets = vocabularies.labels or (), example.targets.values.tolist()
        told = map(str, targets) if self.answer == "number" else (names[t] if t >= 0 else "?" for t in targets)
        return vocabularies.tokenizer.decode(example.tokens.values.tolist()), ", ".join(told)
