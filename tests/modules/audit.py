"""What Python does while a test watches: files it opens, programs it starts, code it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_words import REPOSITORY

OURS = (str(REPOSITORY), sys.prefix, sys.base_prefix)  # sources, which are read for what an error tells of its place
RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec")

events: list[tuple[str, tuple[Any, ...]]] | None = None


def hook(name: str, arguments: tuple[Any, ...]) -> None:
    if events is not None and name in ("open", "import", *RUNS):
        events.append((name, arguments))


sys.addaudithook(hook)


@contextmanager
def watched() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """What Python does meanwhile."""
    global events
    events = []
    try:
        yield events
    finally:
        events = None


def outside(seen: list[tuple[str, tuple[Any, ...]]], root: Path) -> list[str]:
    """Files of this folder's surroundings that were opened: not those of Python itself."""
    opened = [os.path.abspath(a[0]) for name, a in seen if name == "open" and isinstance(a[0], str | os.PathLike)]
    return [path for path in opened if not path.startswith((str(root), *OURS))]


def ran(seen: list[tuple[str, tuple[Any, ...]]], word: str) -> list[str]:
    """Programs and code with this word in them that were run."""
    told = ((name, str(getattr(a[0], "co_consts", a))) for name, a in seen if name in RUNS)
    return [f"{name}: {what}" for name, what in told if word in what]
