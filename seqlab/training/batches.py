"""What a trainer wants of its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from seqlab.data.batch import Batch


class Batches(Protocol):
    """Global batches, epoch by epoch, the same ones whenever they are asked for."""

    def batches(self, epoch: int, start: int = 0, place: dict[str, int] | None = None) -> Iterator[Batch]:
        """Those of an epoch, from number `start` on.

        `place` is for notes of its own that help to go on from there; a checkpoint keeps them.
        """
        ...

    def count(self, epoch: int) -> int | None:
        """How many an epoch has; None: not known yet. It is known before the last of them is asked for."""
        ...
