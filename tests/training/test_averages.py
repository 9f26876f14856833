from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.training import averages as averages_module
from seqlab.training.averages import Averages


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_reading_in_between_changes_no_bit(parts: list[tuple[float, int, bool]]) -> None:
    once, often, here = Averages(), Averages(), Averages()
    for value, count, reads in parts:
        here.add("loss", torch.tensor(value), count)
        assert here.pending == {}
        with pytest.MonkeyPatch.context() as patch:  # as if it lay on a device
            patch.setattr(averages_module, "is_on_host", lambda _: False)
            once.add("loss", torch.tensor(value), count)
            often.add("loss", torch.tensor(value), count)
        if reads:
            often.read()
    count = sum(count for _, count, _ in parts)
    expected = sum(value for value, count, _ in parts if count) / count if count else math.nan
    found = {averages.read()["loss"].hex() for averages in (once, often, here)}
    assert found == {float(expected).hex()}


@pytest.mark.parametrize("here", [True, False])
def test_numbers_of_every_kind_add_up(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averages_module, "is_on_host", lambda _: here)
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
