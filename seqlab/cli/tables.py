"""Tables that read alike on a terminal, by rich, and in TensorBoard, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column is text, all others are numbers; `note` stands below."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Group:
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.title, table.title_justify, table.title_style = escape(self.title), "left", "bold"
        widest = max((len(row[0]) for row in self.rows), default=0)
        table.add_column(self.headings[0], overflow="fold", min_width=min(widest, 24))
        for heading in self.headings[1:]:
            table.add_column(heading, justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return Group(table, *([Text(self.note, "dim")] if self.note else []))

    def markdown(self) -> str:
        lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in (self.headings, *self.rows)]
        lines.insert(1, "| :-- " + "| --: " * (len(self.headings) - 1) + "|")
        return "\n".join([*lines, "", *(f"{_plain(line)}  " for line in self.note.splitlines())])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(text.split()).replace("&", "&amp;")
    return "".join(f"\\{c}" if c in "\\|*_`{}[]()>#+-.!" else c for c in text)
