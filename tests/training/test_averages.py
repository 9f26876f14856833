from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.training.averages import Averages


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_reading_in_between_changes_no_bit(parts: list[tuple[float, int, bool]]) -> None:
    once, often = Averages(), Averages()
    for value, count, reads in parts:
        once.add("loss", torch.tensor(value), count)
        often.add("loss", torch.tensor(value), count)
        if reads:
            often.read()
    count = sum(count for _, count, _ in parts)
    expected = sum(value for value, count, _ in parts if count) / count if count else math.nan
    a, b = once.read()["loss"], often.read()["loss"]
    assert a.hex() == b.hex() == float(expected).hex()


def test_numbers_of_every_kind_add_up() -> None:
    averages = Averages()
    averages.add("right", torch.tensor(2**24 + 1), 2)  # would lose its last bit in float32
    averages.add("norm", 0.5, 1)
    averages.add("norm", torch.tensor(1.5, dtype=torch.bfloat16), 1)
    averages.add("none", torch.tensor(math.nan), 0)
    found = averages.take()
    assert found["right"] == (2**24 + 1) / 2
    assert found["norm"] == 1.0
    assert math.isnan(found["none"])
    assert averages == Averages()
