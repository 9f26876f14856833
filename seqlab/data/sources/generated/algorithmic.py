"""Copying, reversing and sorting strings of symbols: sequence to sequence with nothing to know but the rule.

Copying and reversing are after Grefenstette et al. 2015 ("Learning to transduce with unbounded memory", section 4.1),
sorting after Graves et al. 2014 ("Neural Turing machines", section 4.5), there by priority, here by the symbols alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqlab.data.sources.generated.generated_source import DrawnSource, sizes
from seqlab.data.sources.generated.sampling import Lengths, Uniform, below, require
from seqlab.errors import InputError, did_you_mean

_KINDS: dict[str, Callable[[tuple[int, ...]], Iterable[int]]] = {"copy": iter, "reverse": reversed, "sort": sorted}


@dataclass(frozen=True)
class Algorithmic(DrawnSource):
    """Fields: source, numbers with a blank between them; target, the same numbers copied, reversed or sorted.

    A length is uniform in its range, a number uniform in 0 ... symbols - 1. No source occurs twice, in any split.

    kind          "copy", "reverse" or "sort" (ascending)
    symbols       how many different ones there are
    lengths       the shortest and the longest source, in symbols
    test_lengths  those of the test split; null: the same. Longer ones ask whether the rule was learned
    train         how many examples; validation and test likewise
    seed          of the draws

    Raises:
        InputError: a knob is out of range, or there are not so many different examples.
    """

    kind: str = "copy"
    symbols: int = 32
    lengths: Lengths = (1, 20)
    test_lengths: Lengths | None = None
    train: int = 20_000
    validation: int = 1_000
    test: int = 1_000
    seed: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _KINDS:
            raise InputError(f"data.kind={self.kind} is not {' or '.join(_KINDS)}{did_you_mean(self.kind, _KINDS)}")
        require(self.symbols, "symbols", 1, 1_000_000)

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        def draw(random: Uniform, lengths: Lengths) -> tuple[int, ...]:
            length = lengths[0] + below(random, lengths[1] - lengths[0] + 1)
            return tuple(below(random, self.symbols) for _ in range(length))

        rule = _KINDS[self.kind]
        tables = {
            split: pa.table({"source": [*map(_text, sources)], "target": [_text(rule(source)) for source in sources]})
            for split, sources in self.distinct(draw, "algorithmic").items()
        }
        return tables, {"kind": self.kind, "examples": sizes(tables)}


def _text(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))
