"""Draws that repeat: the same seed gives the same examples on every machine and in every version of Python.

So it uses nothing of `random` but `Random(int).random()`, the one method whose sequence is promised to stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import TypeVar

from seqlab.errors import InputError

Uniform = Callable[[], float]  # the next number of a stream, uniform in [0, 1)
Lengths = tuple[int, int]  # the shortest and the longest, both included
Example = TypeVar("Example")

_PATIENCE = 100_000  # draws in a row without a new example


def stream(*key: object) -> Uniform:
    """A stream of its own for every key, such as ("scan", seed)."""
    return Random(int.from_bytes(hashlib.sha256(repr(key).encode()).digest())).random


def below(random: Uniform, n: int) -> int:
    """Uniform among 0 ... n - 1."""
    return int(random() * n)


def shuffled(items: list[Example], random: Uniform) -> list[Example]:
    order = sorted((random(), place) for place in range(len(items)))
    return [items[place] for _, place in order]


def distinct_splits(
    draw: Callable[[Uniform, Lengths], Example | None],
    key: object,
    lengths: Lengths,
    test_lengths: Lengths | None,
    train: int,
    validation: int,
    test: int,
) -> dict[str, list[Example]]:
    """Three splits in which no example occurs twice, neither within a split nor in two of them.

    Splits with the same lengths are cut from one shuffled pool and so have the same distribution. Drawn one after the
    other, the first would take the short examples, of which there are few, from the others.

    Args:
        draw: an example with a length in that range; None for one to be drawn again.
        key: what the stream of numbers depends on.
        test_lengths: None: the test split is of `lengths` too.

    Raises:
        InputError: there seem to be no further examples.
    """
    random = stream(key)
    found: dict[Example, None] = {}  # a set that keeps the order

    def fill(total: int, lengths: Lengths) -> list[Example]:
        start, in_vain = len(found), 0
        while len(found) < start + total:
            example = draw(random, lengths)
            if example is not None and example not in found:
                found[example] = None
                in_vain = 0
            elif (in_vain := in_vain + 1) == _PATIENCE:
                raise InputError(
                    f"only {len(found) - start:,} of {total:,} different examples of length {lengths[0]} to "
                    f"{lengths[1]} were found; widen data.lengths or data.test_lengths, or lower data.train, "
                    "data.validation or data.test"
                )
        return shuffled(list(found)[start:], random)

    tested = fill(test, test_lengths) if test_lengths else []
    pool = fill(train + validation + test - len(tested), lengths)
    return {"train": pool[:train], "validation": pool[train:][:validation], "test": tested or pool[-test:]}


def require(value: float, knob: str, least: float, most: float) -> None:
    """Raises InputError where a number is outside least ... most."""
    if not least <= value <= most:
        raise InputError(f"data.{knob}={value} is out of range; give {least} to {most}")


def require_lengths(lengths: Lengths, knob: str) -> None:
    """Raises InputError where these are no lengths."""
    if not 1 <= lengths[0] <= lengths[1]:
        raise InputError(f"data.{knob}={list(lengths)} are no lengths; give [shortest,longest], such as [1,20]")


def require_sizes(train: int, validation: int, test: int) -> None:
    """Raises InputError where a split would be empty."""
    for split, size in (("train", train), ("validation", validation), ("test", test)):
        if size < 1:
            raise InputError(f"data.{split}={size} leaves the split empty; give at least 1")
