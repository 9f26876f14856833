"""Stopping in good order on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from seqlab.errors import StoppedError


class StopSignals:
    """Within `with`, a signal only raises a flag; `check` is called wherever it is safe to stop.

    Signals reach the main thread alone: in another thread nothing is caught, and `check` never stops.
    """

    received: int | None = None

    def __enter__(self) -> StopSignals:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number

    def check(self) -> None:
        """Raises StoppedError where a signal has come."""
        if self.received is not None:
            raise StoppedError(f"stopped by {signal.Signals(self.received).name}", self.received)
