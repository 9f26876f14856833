from __future__ import annotations

from typing import Any

import pytest

from seqlab.errors import InputError
from seqlab.training.limits import Limits


def test_the_nearest_limit_is_the_progress() -> None:
    limits = Limits(max_steps=100, max_epochs=4, max_tokens=1000)
    assert limits.progress(0, 0, 0) == 0
    assert limits.progress(10, 1.0, 100) == 0.25
    assert limits.progress(50, 1.0, 100) == 0.5
    assert limits.progress(50, 1.0, 900) == 0.9
    assert limits.progress(50, 5.0, 900) == 1


def test_minutes_only_stop() -> None:
    limits = Limits(max_minutes=2)
    assert limits.progress(10**6, 10.0, 10**9) == 0
    assert limits.minutes_used(60) == 0.5
    assert Limits(max_steps=1).minutes_used(1e9) == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, r"trainer\.max_steps, trainer\.max_epochs, trainer\.max_tokens, trainer\.max_minutes"),
        ({"max_steps": 0, "max_minutes": -1.0, "max_epochs": 3}, r"trainer\.max_steps=0, trainer\.max_minutes=-1\.0:"),
    ],
)
def test_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)
