"""JSON lines: an object on every line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from seqlab.data.records import BY_FIELD, Columns, Record, decoded
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.files import lines
from seqlab.data.sources.record_files import RecordFiles

ARRAY = "; of an array, write each object on a line of its own, as jq -c '.[]' FILE does"
_KINDS = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}
_DIGITS = 19  # of the largest 64-bit integer; Python's parser takes quadratic time over giant ones


@dataclass(frozen=True)
class JsonFiles(RecordFiles):
    """Files of JSON lines; see `RecordFiles`. Blank lines are skipped.

    columns  the key of each field
    """

    columns: Columns = BY_FIELD

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        for number, content, ended in lines(file):
            if not content.strip():
                continue
            origin = f"{file}, line {number}"
            try:
                item = parsed(content)
                values = {field: item[key] for field, key in self.columns.choose(item).items()}
            except Unusable as problem:
                if not ended and problem.reason in ("not JSON", "not UTF-8"):
                    problem = Unusable("torn last line", f"the file ends within a line: {problem.message}")
                rejects.add(origin, problem.reason, problem.message)
            else:
                yield origin, values


def parsed(content: bytes, example: str = '{"text": "..."}') -> dict[str, Any]:
    """The object on a line.

    Args:
        example: of such an object, for messages.

    Raises:
        Unusable: there is none.
    """
    text = decoded(content)
    try:
        item = _DECODER.decode(text)
    except RecursionError:
        raise Unusable("nested too deeply", "JSON nested too deeply") from None
    except json.JSONDecodeError as error:  # perhaps on the first line of an array over several lines
        hint = ARRAY if error.doc.lstrip().startswith("[") else ""
        reason = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise Unusable("not JSON", f"not JSON ({reason}){hint}") from None
    if not isinstance(item, dict):
        hint = ARRAY if isinstance(item, list) else ""
        raise Unusable(
            "not an object", f"{_KINDS[type(item)]}, but every line should be an object such as {example}{hint}"
        )
    return item


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise Unusable("number too large", f"an integer of {len(digits)} digits; at most {_DIGITS} are read")
    return int(digits)


def _constant(name: str) -> float:
    raise Unusable("not JSON", f"not JSON ({name} is no JSON number)")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
