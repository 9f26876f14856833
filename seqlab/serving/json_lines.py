"""What people send to a model: JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqlab.data.json_files import ARRAY, not_json
from seqlab.errors import InputError


def require_other(source: str, output: Path) -> None:
    """Whether the answers would not take the place of what was asked.

    Raises:
        InputError: they would.
    """
    if source != "-" and output.exists() and Path(source).exists() and output.samefile(source):
        raise InputError(f"output={output} is the input itself: choose another output")


def read_items(source: str, record: Callable[[Mapping[str, Any]], object]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, or of standard input for "-"; blank lines are skipped.

    Args:
        record: raises ValueError, with what is expected, on an object that it cannot read.

    Raises:
        InputError: the file cannot be read, or a line is no such object; names file and line.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"input={source} cannot be read: {error.strerror or error}") from error
    items = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            json.dumps(item, ensure_ascii=False).encode()  # half a surrogate pair can be read, and not be written
        except UnicodeEncodeError as error:
            raise InputError(f"input={source}, line {number}: not valid Unicode ({error})") from error
        except json.JSONDecodeError as error:
            raise InputError(f"input={source}, line {number}: {not_json(error)}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"input={source}, line {number}: not JSON ({error})") from error
        try:
            record(item if isinstance(item, dict) else {})
        except ValueError as error:
            hint = ARRAY if isinstance(item, list) else ""
            raise InputError(f"input={source}, line {number}: {error}{hint}") from error
        items.append(item)
    if not items:
        raise InputError(f'input={source} holds no line; expected one object, such as {{"text": "..."}}, per line')
    return items
