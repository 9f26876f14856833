"""What is written as JSON can be read by whoever reads JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.storage.json import dump_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_all_but_what_is_no_finite_number_comes_back(value: object) -> None:
    def strange(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    def expected(value: object) -> object:
        if isinstance(value, list):
            return [expected(item) for item in value]
        if isinstance(value, dict):
            return {key: expected(item) for key, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    assert json.loads(dump_json(value, indent=1), parse_constant=strange) == expected(value)


def test_a_tuple_is_a_list() -> None:
    assert dump_json({"a": (1.5, -math.inf)}) == '{"a": [1.5, null]}'
