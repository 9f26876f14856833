"""Rows that cannot be used."""

from __future__ import annotations

from typing import Literal

from seqlab.errors import InputError

OnError = Literal["raise", "skip"]


class Rejects:
    """Rows that cannot be used: raised at once, or skipped, counted by reason, and refused where they are too many."""

    def __init__(self, on_error: OnError = "raise", max_share: float = 0.1) -> None:
        self.on_error, self.max_share = on_error, max_share
        self.counts: dict[str, int] = {}

    def add(self, origin: str, reason: str, message: str) -> None:
        if self.on_error == "raise":
            raise InputError(f"{origin}: {message}; data.on_error=skip leaves such rows out")
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def settle(self, read: int) -> None:
        rejected = sum(self.counts.values())
        if rejected > self.max_share * read:
            raise InputError(f"{rejected} of {read} rows cannot be used: {self.counts}")
