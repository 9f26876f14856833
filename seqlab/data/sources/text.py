"""Text of the user's own: UTF-8 files with a sequence per line, per paragraph or per file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqlab.data.records import Record, decoded
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.files import Line, lines
from seqlab.data.sources.record_files import RecordFiles
from seqlab.errors import InputError, did_you_mean

_UNITS = ("line", "paragraph", "file")


@dataclass(frozen=True)
class TextFiles(RecordFiles):
    """UTF-8 text files; see `RecordFiles`. The field is `text`. Blank lines are no sequences.

    unit  what a sequence is: "line", "paragraph" (lines up to a blank one) or "file"

    Raises:
        InputError: the unit is none of these.
    """

    unit: str = "line"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in _UNITS:
            raise InputError(f"data.unit={self.unit} is not {' or '.join(_UNITS)}{did_you_mean(self.unit, _UNITS)}")

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        for unit in self._units(file):
            origin = f"{file}, line {unit[0].number}"
            try:
                texts = []
                for line in unit:
                    origin = f"{file}, line {line.number}"  # of the line that is wrong, if one is
                    texts.append(decoded(line.content))
            except Unusable as problem:
                rejects.add(origin, problem.reason, problem.message)
                continue
            text = "\n".join(texts).strip("\n")
            if text.strip():
                yield f"{file}, line {unit[0].number}", {"text": text}

    def _units(self, file: Path) -> Iterator[list[Line]]:
        unit: list[Line] = []
        for line in lines(file):
            blank = not line.content.decode(errors="replace").strip()
            if self.unit == "file" or not blank:
                unit.append(line)
            if unit and (self.unit == "line" or (self.unit == "paragraph" and blank)):
                yield unit
                unit = []
        if unit:
            yield unit
