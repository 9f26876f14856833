"""Faults for tests of storage: the process dies, or the disk refuses, at a file operation of one's choice."""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The end of the process."""


def operations() -> Iterator[tuple[Any, str]]:
    """Yield the functions that change files, by owner and name."""
    yield from ((os, "fsync"), (os, "replace"), (shutil, "rmtree"), (builtins, "open"), (io, "open"))
    yield from ((Path, name) for name in ("rename", "mkdir", "symlink_to", "unlink"))


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: type[BaseException]) -> None:
    """Let file operation number `at` raise instead of being done; all later ones too, if the error is `Killed`."""
    done = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            done += 1
            if done == at or (done > at and error is Killed):
                raise error(28, "No space left on device") if error is OSError else error()
            return original(*arguments, **keywords)

        return operation

    for owner, name in operations():
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
