"""JSON as its standard has it, RFC 8259: every number is finite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dump_json(value: Any, **options: Any) -> str:
    """`json.dumps` with null in place of NaN and infinity, which other readers than Python's refuse."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
