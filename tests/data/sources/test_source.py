"""Where a key goes is settled for ever."""

from __future__ import annotations

from collections import Counter

from seqlab.data.sources.source import SPLITS, split_of


def test_a_tenth_each_is_held_out() -> None:
    counts = Counter(split_of(f"key {i}") for i in range(10_000))
    assert set(counts) == set(SPLITS)
    assert abs(counts["test"] - 1000) < 120
    assert abs(counts["validation"] - 1000) < 120


def test_the_answer_never_changes() -> None:
    # By hand, from `printf KEY | sha256sum`: the first four hexadecimal digits over 65536.
    assert split_of("s") == "test"  # 043a: 0.017
    assert split_of("d") == "test"  # 18ac: 0.096
    assert split_of("n") == "validation"  # 1b16: 0.106
    assert split_of("a") == "train"  # ca97: 0.791
