"""Raised at once, or skipped and counted, and refused where they are too many."""

from __future__ import annotations

import pytest

from seqlab.data.rejects import Rejects
from seqlab.errors import InputError


def test_raise() -> None:
    with pytest.raises(InputError, match=r"^a\.csv, line 7: no label; data\.on_error=skip leaves such rows out$"):
        Rejects().add("a.csv, line 7", "no label", "no label")


def test_skip_counts_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    rejects = Rejects("skip", 0.1)
    for line in range(3):
        rejects.add(f"a.csv, line {line}", "no label" if line else "not UTF-8", f"what is wrong with {line}")
    assert rejects.counts == {"not UTF-8": 1, "no label": 2}
    rejects.settle(30, "train")
    assert "in train, 3 of 30 rows cannot be used (not UTF-8: 1, no label: 2)" in caplog.text
    for line in range(3):
        rejects.add(f"b.csv, line {line}", "no label", "what is wrong")
    message = r"in test, 3 of 29 rows.*\(no label: 3\), the first of them b\.csv, line 0: what is.*data\.max_rejected="
    with pytest.raises(InputError, match=message):
        rejects.settle(29, "test")


@pytest.mark.parametrize("hundredths", range(1, 100))
def test_the_share_itself_is_allowed(hundredths: int) -> None:
    rejects = Rejects("skip", float(f"0.{hundredths:02}"))
    for _ in range(hundredths):
        rejects.add("", "reason", "")
    rejects.settle(100, "train")


def test_what_was_left_out_of_a_split_before_counts_too() -> None:
    rejects = Rejects("skip", 0.1)
    for read in (100, 92):  # first they are read, then those that could be are looked at by the form
        for _ in range(8):
            rejects.add("a.csv, line 3", "reason", "what is wrong")
        if read == 100:
            rejects.settle(read, "train")
    with pytest.raises(InputError, match=r"in train, 8 of 92 rows .* with 8 left out before, more than"):
        rejects.settle(92, "train")


def test_nothing_wrong_and_nothing_read() -> None:
    Rejects().settle(0, "test")
    for share in (-0.1, 10):
        with pytest.raises(InputError, match=r"data\.max_rejected="):
            Rejects("skip", share)
