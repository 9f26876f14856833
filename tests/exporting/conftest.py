"""The table of `make parity`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def differences() -> Iterator[dict[tuple[str, str], dict[str, str]]]:
    """By model and encoder, what is told of each format; in the end a table, where PARITY_TABLE names a file."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    yield told
    if (path := os.environ.get("PARITY_TABLE")) and told:
        formats = list(dict.fromkeys(name for row in told.values() for name in row))
        lines = [["model", "encoder", *formats], ["---"] * (2 + len(formats))]
        lines += [[*kind, *(row.get(name, "") for name in formats)] for kind, row in told.items()]
        Path(path).write_text(ABOUT + "".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")


ABOUT = """# Exports against eager mode

Written by `make parity`: the largest difference of any output, of any signature, from eager mode, for small models
with large weights; batches of 1 to 64 sequences, lengths from 0 to 4 times the longest of training. A dash: the format
cannot hold this model, and says so. An empty place: not tried (a Transformer has no decoder without attention;
AOTInductor compiles for a minute).

"""
