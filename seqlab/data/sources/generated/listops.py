"""ListOps: nested operations on digits, and their value: "[MAX 2 [MIN 4 7 ] 0 ]" has 4 (Nangia and Bowman 2018).

A tree is drawn from its root. Above the greatest depth a node is an operation with probability 1/4, otherwise a digit.
An operation has 2 to 5 arguments; it is one of MIN, MAX, MED (the median, rounded down) and SM (the sum modulo 10), as
likely as any other. No tree occurs twice. These numbers and the depth of 20 are the constants of the published
generator; the sizes of 90,000 and 10,000 are those of the published data, which has no validation split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pyarrow as pa

from seqlab.data.sources.generated.generated_source import DrawnSource, sizes
from seqlab.data.sources.generated.sampling import Lengths, Uniform, below, require

_OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda digits: int(median(digits)),
    "[SM": lambda digits: sum(digits) % 10,
}
_NAMES = list(_OPERATIONS)


@dataclass(frozen=True)
class ListOps(DrawnSource):
    """Fields: text, the symbols of a tree with a blank between them; label, its value, "0" to "9".

    operations    the probability that a node is an operation
    max_args      the most arguments of one; the least is 2
    max_depth     at this depth all nodes are digits; the root is at depth 1
    lengths       the least and the most symbols of a tree; others are drawn again
    test_lengths  those of the test split; null: the same
    train         how many trees; validation and test likewise
    seed          of the draws

    The paper's LSTM gets 71 to 74 % of the published test trees right.

    Raises:
        InputError: a knob is out of range, or there are not so many different trees.
    """

    operations: float = 0.25
    max_args: int = 5
    max_depth: int = 20
    lengths: Lengths = (1, 10_000)
    test_lengths: Lengths | None = None
    train: int = 90_000
    validation: int = 5_000
    test: int = 10_000
    seed: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.operations, "operations", 0, 1)
        require(self.max_args, "max_args", 2, 100)
        require(self.max_depth, "max_depth", 1, 200)  # a level takes two of Python's thousand frames

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        def draw(random: Uniform, lengths: Lengths) -> tuple[str, int] | None:
            symbols: list[str] = []
            value = self._grow(random, 1, symbols, lengths[1])
            return (" ".join(symbols), value) if lengths[0] <= len(symbols) <= lengths[1] else None

        tables = {
            split: pa.table({"text": [text for text, _ in trees], "label": [str(value) for _, value in trees]})
            for split, trees in self.distinct(draw, "listops").items()
        }
        return tables, {"examples": sizes(tables)}

    def _grow(self, random: Uniform, depth: int, symbols: list[str], longest: int) -> int:
        """Appends the symbols of a tree with its root at this depth, and returns its value."""
        if len(symbols) > longest:  # it will be drawn again, so whatever ends it soon is right
            return 0
        if depth == self.max_depth or random() > self.operations:
            digit = below(random, 10)
            symbols.append(str(digit))
            return digit
        name = _NAMES[below(random, len(_NAMES))]
        symbols.append(name)
        args = 2 + below(random, self.max_args - 1)
        digits = [self._grow(random, depth + 1, symbols, longest) for _ in range(args)]
        symbols.append("]")
        return _OPERATIONS[name](digits)
