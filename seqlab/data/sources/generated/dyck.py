"""Dyck-(k, m): well-nested brackets of k types, at most m of them open at once (Hewitt et al. 2020).

A string is a walk, as in the paper's experiments. With nothing open it ends or opens a bracket, with m open it closes
one, otherwise it opens or closes one: each with probability 1/2, and every type of an opening bracket as likely as the
others. A walk that would end too early goes on, one that gets too long is begun anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqlab.data.sources.generated.generated_source import DrawnSource, sizes
from seqlab.data.sources.generated.sampling import Lengths, Uniform, below, require, stream
from seqlab.errors import InputError


@dataclass(frozen=True)
class Dyck(DrawnSource):
    """Fields: text, brackets with a blank between them, "a" closed by "A"; label, "valid" or "invalid".

    The default is the paper's smallest language, for language modelling; with invalid=0.5 it is for classification.
    Strings are drawn independently, so short ones occur often, in training and validation alike; a test split of
    longer strings shares none with them.

    types         k, how many pairs of brackets there are
    max_depth     m, how many may be open at once
    lengths       the least and the most brackets of a string; the paper counts the end as well, which makes 84
    test_lengths  those of the test split; null: the same
    invalid       the share of strings in which two brackets have changed places, so that they are not well nested
    train         how many strings; validation and test likewise
    seed          of the draws

    Raises:
        InputError: a knob is out of range.
    """

    types: int = 2
    max_depth: int = 3
    lengths: Lengths = (2, 82)
    test_lengths: Lengths | None = (84, 166)
    invalid: float = 0.0
    train: int = 10_000
    validation: int = 1_000
    test: int = 1_000
    seed: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.types, "types", 1, 10_000)
        require(self.max_depth, "max_depth", 1, 10_000)
        require(self.invalid, "invalid", 0, 1)
        for knob, lengths in (("lengths", self.lengths), ("test_lengths", self.test_lengths or self.lengths)):
            if lengths[1] // 2 * 2 < lengths[0]:
                raise InputError(f"data.{knob}={list(lengths)}: brackets come in pairs; give an even number")

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        tables = {
            "train": self._table("train", self.train, self.lengths),
            "validation": self._table("validation", self.validation, self.lengths),
            "test": self._table("test", self.test, self.test_lengths or self.lengths),
        }
        return tables, {"examples": sizes(tables)}

    def _table(self, split: str, count: int, lengths: Lengths) -> pa.Table:
        random = stream("dyck", self.seed, split)
        texts: list[str] = []
        labels: list[str] = []
        while len(texts) < count:
            string = self._walk(random, *lengths)
            if string is None:
                continue
            valid = random() >= self.invalid
            if not valid:
                _spoil(string, random)
            texts.append(" ".join(map(_name, string)))
            labels.append("valid" if valid else "invalid")
        return pa.table({"text": texts, "label": labels})

    def _walk(self, random: Uniform, shortest: int, longest: int) -> list[int] | None:
        """Brackets as numbers: t opens type t = 1, 2 ..., and -t closes it. None: it would get too long."""
        string: list[int] = []
        opened: list[int] = []
        while len(string) + len(opened) <= longest:
            if not opened:
                close = False
                if len(string) >= shortest and random() < 0.5:
                    return string
            else:
                close = len(opened) == self.max_depth or random() < 0.5
            if close:
                string.append(-opened.pop())
            else:
                opened.append(1 + below(random, self.types))
                string.append(opened[-1])
        return None


def well_nested(string: Sequence[int]) -> bool:
    opened: list[int] = []
    for bracket in string:
        if bracket > 0:
            opened.append(bracket)
        elif not opened or opened.pop() != -bracket:
            return False
    return not opened


def _spoil(string: list[int], random: Uniform) -> None:
    """Swap two brackets, so that the string has what it had, but not well nested. The first and the last always do."""
    while True:
        a, b = below(random, len(string)), below(random, len(string))
        string[a], string[b] = string[b], string[a]
        if not well_nested(string):
            return
        string[a], string[b] = string[b], string[a]


def _name(bracket: int) -> str:
    """A letter, repeated from the 27th type on, as in the paper's data; upper case closes."""
    times, letter = divmod(abs(bracket) - 1, 26)
    name = chr(ord("a") + letter) * (times + 1)
    return name if bracket > 0 else name.upper()
