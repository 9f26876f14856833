"""What becomes of rows that cannot be used."""

from __future__ import annotations

import logging
from typing import Literal

from seqlab.errors import InputError

OnError = Literal["raise", "skip"]

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """A row cannot be used. `reason` is what such rows are counted under, `message` what is wrong with this one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message


class RowError(InputError):
    """A row cannot be used, and none is to be skipped. `told` is the message without the advice to skip it."""

    def __init__(self, told: str) -> None:
        super().__init__(f"{told}; data.on_error=skip leaves such rows out")
        self.told = told


class Rejects:
    """Rows that cannot be used: raised at once, or skipped, counted by reason, and refused where they are too many.

    on_error   "raise" or "skip"
    max_share  the share of the rows of a split that may be skipped, from 0 to 1; all that go there count, whether they
               cannot be read or do not fit the form
    counts     by reason, such as {"not JSON": 3, "no label": 1}

    Raises:
        InputError: max_share is no share.
    """

    def __init__(self, on_error: OnError = "raise", max_share: float = 0.1) -> None:
        if not 0 <= max_share <= 1:
            raise InputError(f"data.max_rejected={max_share}: expected a share of the rows, from 0 to 1")
        self.on_error, self.max_share = on_error, max_share
        self.counts: dict[str, int] = {}
        self._settled: dict[str, int] = {}  # what `counts` were
        self._first = ""  # since then
        self._left_out: dict[str, int] = {}  # of each split, until then

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, origin: str, reason: str, message: str, whole: bool = False) -> None:
        """Note a row.

        Args:
            origin: where it is, such as "reviews.csv, line 7".
            reason: what it is counted under.
            message: what is wrong with it.
            whole: whether it is a whole file: that counts as a row, but nobody is advised to skip it.

        Raises:
            RowError: rows are not to be skipped.
            InputError: likewise, of a whole file.
        """
        if self.on_error == "raise":
            told = f"{origin}: {message}"
            raise InputError(told) if whole else RowError(told)
        self._first = self._first or f"{origin}: {message}"
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def settle(self, read: int, split: str) -> None:
        """Once all `read` rows of a split, good and bad, have been seen: about those noted since this was last called.

        Raises:
            InputError: too large a share was skipped, with those that were left out of this split before.
        """
        new = {reason: count - self._settled.get(reason, 0) for reason, count in self.counts.items()}
        rejected, first = sum(new.values()), self._first
        self._settled, self._first = dict(self.counts), ""
        if not rejected:
            return
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in new.items() if count)
        told = f"in {split}, {rejected:,} of {read:,} rows cannot be used ({reasons}), the first of them {first}"
        before = self._left_out.get(split, 0)
        self._left_out[split] = before + rejected
        if (before + rejected) / (before + read) > self.max_share:
            also = f", with {before:,} left out before," if before else ""
            raise InputError(f"{told}; that is{also} more than data.max_rejected={self.max_share}")
        logger.warning("left out: %s", told)
