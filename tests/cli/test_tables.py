"""A table says the same on a terminal and in TensorBoard, whatever stands in its cells."""

from __future__ import annotations

import html
import io
import re
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from seqlab.cli.tables import Table

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # TensorBoard's copy of html5lib, of itself
    from tensorboard.plugin_util import markdown_to_safe_html

cell = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(lambda t: " ".join(t.split()))


@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=4), cell)
@example([("B-a|b", "[bold]x[/]"), ("<script>", "&amp;"), ("<!--", "a<b"), ("*a*", "_b_")], "1. `note`\n# title")
@example([("\\|", "http://a.b/c")], "- a\n> b")
def test_markdown_shows_cells_as_they_are(rows: list[tuple[str, str]], note: str) -> None:
    shown = markdown_to_safe_html(Table("", ("what", "how many"), rows, note).markdown())
    cells = [_text(found) for found in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", shown, re.DOTALL)]
    assert cells == ["what", "how many", *(value for row in rows for value in row)]
    below = shown.partition("</table>")[2]
    assert _text(below).split() == note.split()


def _text(source: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", source)).strip()


def printed(table: Table, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table.rich())
    return file.getvalue()


def test_a_terminal_shows_cells_as_they_are_and_numbers_to_the_right() -> None:
    shown = printed(Table("Title [x]", ("", "rows"), [("a[bold]b", "1"), ("c", "1,000")], "[note]"), 60)
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert lines[:2] == ["Title [x]", "rows"]
    assert lines[3:] == ["a[bold]b      1", "c         1,000", "[note]"]


@pytest.mark.parametrize("width", [40, 100])
def test_a_long_name_is_folded_and_numbers_are_not(width: int) -> None:
    shown = printed(Table("", ("", "n"), [("x" * 150, "12,345,678")]), width)
    assert shown.count("x") == 150
    assert "12,345,678" in shown
    assert max(map(len, shown.splitlines())) <= width
