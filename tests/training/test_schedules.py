from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.errors import InputError
from seqlab.training.schedules import Constant, Cosine, Linear, Schedule


def test_warm_up_is_a_straight_line() -> None:
    assert [Constant(warmup_steps=4).factor(step, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [schedule.factor(0, 0) for schedule in (Constant(0), Cosine(0), Linear(0))] == [1, 1, 1]


def test_decay_by_hand() -> None:
    late = 10**6
    assert Cosine(3, floor=0.1).factor(late, 0.5) == pytest.approx(0.55)
    assert Cosine(3, floor=0.1).factor(late, 1 / 3) == pytest.approx(0.1 + 0.9 * (1 + 0.5) / 2)
    assert Cosine(3, floor=0.1).factor(late, 1.0) == pytest.approx(0.1)
    assert Linear(3, floor=0.2).factor(late, 0.25) == pytest.approx(0.8)
    assert Linear(3).factor(late, 1.0) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 50), st.floats(0, 1), st.integers(2, 60))
def test_climbs_then_falls(warmup: int, floor: float, steps: int) -> None:
    for schedule in (Cosine(warmup, floor), Linear(warmup, floor)):
        factors = [schedule.factor(step, step / steps) for step in range(steps + 1)]
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
        assert all(0 <= factor <= 1 + 1e-12 and math.isfinite(factor) for factor in factors)


@pytest.mark.parametrize("make", [lambda: Cosine(-1), lambda: Linear(0, 1.5), lambda: Constant(-2)])
def test_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=r"schedule\.(warmup_steps|floor)="):
        make()


def test_they_are_schedules() -> None:
    schedules: list[Schedule] = [Cosine(), Linear(), Constant()]
    assert all(0 < schedule.factor(0, 0) <= 1 for schedule in schedules)
