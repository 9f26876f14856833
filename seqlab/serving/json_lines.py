"""What people send to a model: JSON lines, each with a "text"."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from seqlab.errors import InputError


def read_items(source: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, or of standard input for "-"; blank lines are skipped.

    Raises:
        InputError: the file cannot be read, or a line is no object with a "text"; names file and line.
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
        except (ValueError, RecursionError) as error:
            raise InputError(f"input={source}, line {number}: not JSON ({error})") from error
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            raise InputError(f'input={source}, line {number}: expected an object such as {{"text": "Return the"}}')
        items.append(item)
    if not items:
        raise InputError(f'input={source} holds no line; expected one {{"text": "..."}} per line')
    return items
