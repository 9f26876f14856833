"""Words of messages."""

from __future__ import annotations

import pytest

from seqlab.errors import counted


@pytest.mark.parametrize(("number", "told"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")])
def test_one_is_singular(number: int, told: str) -> None:
    assert counted(number, "row") == told
