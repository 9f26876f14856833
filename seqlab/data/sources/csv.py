"""Comma-, tab- and otherwise separated values."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seqlab.data.records import BY_FIELD, Columns, Record, decoded
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.files import Line, lines
from seqlab.data.sources.record_files import RecordFiles
from seqlab.errors import InputError

_LONGEST = 1000  # lines in one row: a row of more has a quote that was never closed
_WIDEST = 2**31 - 1  # characters in one field


class _Row(NamedTuple):
    """Number of its first line, cells, what is wrong with its bytes, and whether its last line is ended."""

    first: int
    cells: list[str]
    problem: Unusable | None
    ended: bool


@dataclass(frozen=True)
class CsvFiles(RecordFiles):
    """Files of separated values; see `RecordFiles`. Blank lines are skipped.

    columns    the column of each field
    delimiter  one character
    quote      the character around a field that holds delimiters, line ends or, doubled, itself; None: there is none
    header     whether the first row names the columns; otherwise they are numbered from 0

    Raises:
        InputError: delimiter or quote is not one character; on reading, a column that is named is not there.
    """

    columns: Columns = BY_FIELD
    delimiter: str = ","
    quote: str | None = '"'
    header: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._reader(iter(()))
        except (TypeError, ValueError) as error:
            raise InputError(f"data.delimiter={self.delimiter!r} data.quote={self.quote!r}: {error}") from error

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        names: list[str] = []
        chosen: dict[str, int] = {}
        for first, cells, problem, ended in self._rows(file, rejects):
            if not names:
                if problem is not None and self.header:
                    raise InputError(f"{file}, line {first}: the header is {problem.message}")
                names = [cell.strip() for cell in cells] if self.header else [str(i) for i in range(len(cells))]
                chosen = self._chosen(file, names, cells)
                if self.header:
                    continue
            origin = f"{file}, line {first}"
            if problem is None and len(cells) != len(names):
                amount = "few" if len(cells) < len(names) else "many"
                where = "header" if self.header else "first row"
                problem = Unusable(
                    f"too {amount} fields", f"too {amount} fields: {len(cells)}, but the {where} has {len(names)}"
                )
                if not ended and len(cells) < len(names):
                    problem = Unusable("torn last line", f"the file ends within a line: {problem.message}")
            if problem is not None:
                rejects.add(origin, problem.reason, problem.message)
            else:
                yield origin, {field: cells[index] for field, index in chosen.items()}

    def _chosen(self, file: Path, names: list[str], first: list[str]) -> dict[str, int]:
        try:
            chosen = self.columns.choose(names)
        except Unusable as problem:
            raise InputError(f"{file}: {problem.message}{self._hint(first)}") from None
        for field, name in chosen.items():
            if names.count(name) > 1:
                raise InputError(f'{file}: {names.count(name)} columns are called "{name}"; see data.columns.{field}=')
        return {field: names.index(name) for field, name in chosen.items()}

    def _hint(self, first: list[str]) -> str:
        """What the first row of a file, in which a column is missing, says of its format."""
        if first[0].lstrip().startswith("{"):
            return "; these seem to be JSON lines: try data=json"
        other = next((d for d in "\t;|," if d != self.delimiter and d in first[0]), None) if len(first) == 1 else None
        if other is not None:
            named = {"\t": ("tabs", "data=tsv"), ",": ("commas", "data=csv")}
            what, way = named.get(other, (repr(other), f"\"data.delimiter='{other}'\""))
            return f"; the columns seem to be divided by {what}: try {way}"
        asked = any(name.isdecimal() for name in self.columns.named.values())
        if self.header and (asked or any(_is_data(cell) for cell in first)):
            return "; the first row seems to be no header: try data.header=false, which numbers the columns from 0"
        return ""

    def _rows(self, file: Path, rejects: Rejects) -> Iterator[_Row]:
        """After a quote that is not closed, or stands where none may, reading goes on with the next line."""
        source, again = lines(file), deque[Line]()
        taken: list[Line] = []  # of the row that is being read
        problem: Unusable | None = None
        headed = not self.header

        def feed() -> Iterator[str]:
            nonlocal problem
            while (line := again.popleft() if again else next(source, None)) is not None:
                taken.append(line)
                if len(taken) > _LONGEST:
                    raise csv.Error(f"a row of over {_LONGEST} lines")
                try:
                    text = decoded(line.content)
                except Unusable as found:
                    problem, text = found, line.content.decode(errors="replace")
                yield f"{text}\n"

        ahead = True
        while ahead:
            try:
                for cells in self._reader(feed()):
                    if cells:
                        headed = True
                        yield _Row(taken[0].number, cells, problem, taken[-1].ended)
                    taken.clear()
                    problem = None
                ahead = False
            except csv.Error as error:
                first, *rest = taken
                reason, message = "unbalanced quotes", f"unbalanced quotes ({error})"
                if not headed:
                    raise InputError(f"{file}, line {first.number}: the header has {message}") from None
                if str(error).startswith("new-line"):
                    reason, message = "carriage return", "a carriage return within a line, outside quotes"
                if not first.ended:
                    reason, message = "torn last line", f"the file ends within a line: {message}"
                rejects.add(f"{file}, line {first.number}", reason, message)
                again.extendleft(reversed(rest))
                taken.clear()
                problem = None

    def _reader(self, rows: Iterator[str]) -> Iterator[list[str]]:
        csv.field_size_limit(_WIDEST)  # of the whole process; by default too low for a chapter
        if self.quote is None:
            return csv.reader(rows, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)
        return csv.reader(rows, delimiter=self.delimiter, quotechar=self.quote, strict=True)


def _is_data(cell: str) -> bool:
    """Whether it is unlike the name of a column: a number, or more than three words."""
    return cell.strip().replace(".", "", 1).isdecimal() or len(cell.split()) > 3
