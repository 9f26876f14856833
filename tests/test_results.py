"""What a person reads after a run."""

from __future__ import annotations

from typing import Any

import pytest

from seqlab.results import readable


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("A fine film.", "A fine film."),
        (0.12345678901, "0.123"),
        (7, "7"),
        (["B-PER", "O"], "B-PER O"),
        ([0.98765, 1.0], "0.988 1"),
        ([], ""),
        ({"pos": 0.9, "neg": 0.1}, "pos 0.9, neg 0.1"),
        (dict(zip("abcd", (0.5, 0.3, 0.15, 0.05), strict=True)), "a 0.5, b 0.3, c 0.15, ..."),
        ([{"type": "PER", "words": [0, 2], "probability": 0.51234}], "type PER, words 0 2, probability 0.512"),
        ([[{"token": "a", "probability": 0.5}], []], "token a, probability 0.5; "),
    ],
)
def test_answers_are_told_in_short(value: Any, told: str) -> None:
    assert readable(value) == told
