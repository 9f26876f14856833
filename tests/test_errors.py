"""Words of messages."""

from __future__ import annotations

import pytest

from seqlab.errors import InputError, counted, require_positive


@pytest.mark.parametrize(("number", "told"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")])
def test_one_is_singular(number: int, told: str) -> None:
    assert counted(number, "row") == told


def test_all_that_is_not_more_than_0_is_named() -> None:
    require_positive("batching", tokens=1, wait_ms=0.5, rows=None)
    with pytest.raises(InputError, match=r"^batching\.tokens=0, batching\.wait_ms=nan: expected more than 0$"):
        require_positive("batching", tokens=0, wait_ms=float("nan"), rows=3)
