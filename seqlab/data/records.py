"""A record: the fields of one row, by name; which columns they come from, and what may stand in them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from seqlab.data.rejects import Unusable
from seqlab.errors import counted, did_you_mean

Record = tuple[str, dict[str, Any]]  # where it was found, such as "reviews.csv, line 7", and its values by field

KINDS = (("text", "pair", "label"), ("words", "tags"), ("source", "target"))  # fields that go together
FIELDS = tuple(field for kind in KINDS for field in kind)
INPUTS = ("text", "pair", "words", "source")  # what a model reads; the others are what it should answer
_SHOWN = 40  # characters of a value, in a message


Column = str | int | Literal[False] | None


@dataclass(frozen=True)
class Columns:
    """The column that each field is read from. None: the one called like the field, where there is one; False: none.

    To name a column is also to say of which kind the records are (`KINDS`): of other kinds, nothing is read that is not
    named. A file without a header has its columns numbered: 0 is the first.
    """

    text: Column = None
    pair: Column = None
    label: Column = None
    words: Column = None
    tags: Column = None
    source: Column = None
    target: Column = None

    @cached_property
    def named(self) -> dict[str, str]:
        columns = asdict(self).items()
        return {field: str(column) for field, column in columns if column is not None and column is not False}

    def choose(self, present: Collection[str]) -> dict[str, str]:
        """The column for each field, among those that are present.

        Raises:
            Unusable: a column that is named is absent, or there is none that a model could read.
        """
        kinds = [kind for kind in KINDS if self.named.keys() & kind] or KINDS
        fields = [field for kind in kinds for field in kind if field in present and getattr(self, field) is None]
        chosen = {field: field for field in fields if field not in self.named.values()} | self.named
        for field, column in chosen.items():
            if column not in present:
                hint = did_you_mean(column, present)
                raise Unusable(
                    f"no {field}", f'no "{column}"{hint}, which data.columns.{field}= names; {_there(present)}'
                )
        if chosen.keys().isdisjoint(INPUTS):
            raise Unusable(
                "no text", f"no text, words or source; {_there(present)}; data.columns.text=NAME chooses one"
            )
        return chosen


BY_FIELD = Columns()


def _there(columns: Collection[str]) -> str:
    names = [shown(name) for name in columns]
    return f"there are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else "there are none"


def shown(value: object) -> str:
    """A value, short enough for a message, whatever somebody sent."""
    text = str(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def decoded(content: bytes) -> str:
    """UTF-8.

    Raises:
        Unusable: it is not.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unusable(
            "not UTF-8",
            f"not UTF-8 (byte 0x{content[error.start]:02x}: {error.reason}); convert the file, for example with "
            "iconv -t UTF-8",
        ) from None


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values as the columns of a source's table hold them.

    Numbers and truth values become their text where they are labels, tags or words, but not where text belongs. Words
    and tags may come as one string with blanks between them. A label may be blank: whether that is none, a task knows.

    Raises:
        Unusable: a value is null, of a wrong type, blank where it is no label, or holds what no text may; or tags do
            not match words.
    """
    fields = {field: _CHECKS[field](field, value) for field, value in values.items()}
    if "words" in fields and "tags" in fields and len(fields["words"]) != len(fields["tags"]):
        words, tags = len(fields["words"]), len(fields["tags"])
        raise Unusable("tags do not match words", f"{counted(words, 'word')}, but {counted(tags, 'tag')}")
    return fields


def _text(field: str, value: Any) -> str:
    if type(value) is bytes:
        value = decoded(value)
    if type(value) is not str:
        raise _wrong(
            field, value, "a string, number or truth value, or a list of them" if field == "label" else "a string"
        )
    if not value or value.isspace():
        raise Unusable(f"empty {field}", f"the {field} is {'blank' if value else 'empty'}")
    if "\0" in value:
        raise Unusable("NUL character", f"a NUL character in the {field}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unusable("lone surrogate", f"half a surrogate pair in the {field}: not valid Unicode") from None
    return value


def _name(field: str, value: Any) -> str:
    """A label or a word: a string, or the text of a number or truth value."""
    if isinstance(value, bool):
        return "true" if value else "false"  # as in JSON
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, float) and math.isnan(value):
        value = None  # how tables of numbers write a gap
    return _text(field, value)


def _label(field: str, value: Any) -> str | list[str]:
    if isinstance(value, str) and not value.strip():
        return ""
    return [_name(field, item) for item in value] if isinstance(value, list) else _name(field, value)


def _names(field: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = _text(field, value).split()
    if not isinstance(value, list):
        raise _wrong(field, value, "a list of strings")
    if not value:
        raise Unusable(f"empty {field}", f"there are no {field}")
    return [_name(field, item) for item in value]


def _wrong(field: str, value: Any, expected: str) -> Unusable:
    if value is None:
        unread = f"; data.columns.{field}=false reads none" if field == "pair" else ""
        return Unusable(f"null {field}", f"the {field} is null; expected {expected}{unread}")
    kinds = {
        dict: "an object",
        list: "a list",
        int: "a number",
        float: "a number",
        bool: "a truth value",
        str: "a string",
    }
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    example = "" if isinstance(value, dict | list) else f" ({shown(value)})"
    return Unusable(f"{field} of wrong type", f"the {field} is {kind}{example}; expected {expected}")


_CHECKS = {
    "text": _text, "pair": _text, "label": _label, "words": _names, "tags": _names, "source": _text, "target": _text,
}  # fmt: skip
