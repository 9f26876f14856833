"""What people send to a model: JSON lines."""

from __future__ import annotations

import json
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from seqlab.data.rejects import Unusable
from seqlab.data.sources.json import ARRAY, parsed
from seqlab.errors import InputError


def require_other(source: str, output: Path) -> None:
    """Whether the answers would not take the place of what was asked.

    Raises:
        InputError: they would.
    """
    if source != "-" and output.exists() and Path(source).exists() and output.samefile(source):
        raise InputError(f"output={output} is the input itself: choose another output")


def read_items(source: str, record: Callable[[Mapping[str, Any]], object], example: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, or of standard input for "-", as they are read; blank lines are skipped.

    Args:
        record: raises ValueError, with what is expected, on an object that it cannot read.
        example: of an object that it can read, as JSON.

    Raises:
        InputError: the file cannot be read, or a line is no such object; names file and line.
    """
    none = True
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else open(source, "rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(BOM_UTF8) if number == 1 else line
                if line.strip():
                    none = False
                    yield _item(line.removesuffix(b"\n"), f"input={source}, line {number}", record, example)
    except OSError as error:
        raise InputError(f"input={source} cannot be read: {error.strerror or error}") from error
    if none:
        raise InputError(f"input={source} holds no line; expected one object, such as {example}, per line")


def _item(line: bytes, place: str, record: Callable[[Mapping[str, Any]], object], example: str) -> dict[str, Any]:
    try:
        item = parsed(line, example)
        json.dumps(item, ensure_ascii=False).encode()  # half a surrogate pair can be read, and not be written
        record(item)
    except Unusable as problem:
        hint = _hint(example) if problem.reason == "not JSON" and not problem.message.endswith(ARRAY) else ""
        raise InputError(f"{place}: {problem.message}{hint}") from problem
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: not valid Unicode ({error})") from error
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
    return item


def _hint(example: str) -> str:
    """What to do with lines of plain text."""
    first, *others = json.loads(example)
    fields = ", ".join([f"{first}: .", *(f"{name}: null" for name in others)])
    made = f"jq -cR '{{{fields}}}' FILE makes one of each line of a text file"
    return f"; every line should be an object such as {example}: {made}"
