"""What is wrong with a row, by file and line, under both policies, in every format.

A case is the reason that a row is counted under, and the bytes of the row. They stand between good rows, all of which
must be kept, and none of which may change.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data.records import Columns
from seqlab.data.rejects import Rejects
from seqlab.data.sources.conll import ConllFiles, ConlluFiles
from seqlab.data.sources.csv import CsvFiles
from seqlab.data.sources.json import JsonFiles
from seqlab.data.sources.parallel import ParallelFiles
from seqlab.data.sources.parquet import ParquetFiles
from seqlab.data.sources.record_files import RecordFiles
from seqlab.data.sources.text import TextFiles
from seqlab.errors import InputError

Read = Callable[[str, Rejects], list[dict[str, Any]]]


def rows(source: Callable[..., RecordFiles], path: Path, rejects: Rejects, **knobs: Any) -> list[dict[str, Any]]:
    """What a file gives. It is each of the three splits, for want of another: `rejects` counts everything thrice."""
    return source(str(path), str(path), str(path), **knobs).read(rejects)["train"].to_pylist()


def judge(source: Callable[..., RecordFiles], path: Path, reason: str, kept: int, line: int, **knobs: Any) -> None:
    """One row of the file cannot be used, for that reason; it begins in that line."""
    place = rf"^{re.escape(str(path))}, (line|row) {line}: "
    with pytest.raises(InputError, match=place) as raised:
        rows(source, path, Rejects(), **knobs)
    assert str(raised.value).endswith("; data.on_error=skip leaves such rows out")
    assert len(str(raised.value)) < 500
    rejects = Rejects("skip", 0.9)
    found = rows(source, path, rejects, **knobs)
    assert rejects.counts == {reason: 3}
    assert len(found) == kept
    assert not any(row["origin"].endswith(f" {line}") for row in found)
    with pytest.raises(InputError, match=r"data\.max_rejected=0\.01"):
        rows(source, path, Rejects("skip", 0.01), **knobs)


def row(**values: Any) -> bytes:
    return json.dumps({"text": "fine", "label": "yes", **values}).encode()


JSON = [
    ("not JSON", b"{broken"),
    ("not JSON", b'{"text": "two objects", "label": 1} {}'),
    ("not JSON", b'{"text": "a", "label": NaN}'),
    ("nested too deeply", b'{"text": "fine", "label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("nested too deeply", b'{"a":' * 100_000),
    ("number too large", b'{"text": "fine", "label": ' + b"9" * 1_000_000 + b"}"),
    ("number too large", b'{"text": "fine", "label": -12345678901234567890}'),
    ("not an object", b'["text", "label"]'),
    ("not an object", b'"text"'),
    ("not an object", b"null"),
    ("not UTF-8", b'{"text": "caf\xe9", "label": "yes"}'),
    ("not UTF-8", b'{"text": "\xed\xa0\xbd", "label": "yes"}'),
    ("lone surrogate", b'{"text": "half \\ud83d a pair", "label": "yes"}'),
    ("lone surrogate", b'{"text": "fine", "label": "\\udc00"}'),
    ("NUL character", b'{"text": "a\\u0000b", "label": "yes"}'),
    ("no text", b'{"label": "yes"}'),
    ("no label", b'{"text": "fine"}'),
    ("no label", b'{"text": "fine", "Label": "yes"}'),
    ("null text", row(text=None)),
    ("null label", row(label=None)),
    ("text of wrong type", row(text=7)),
    ("text of wrong type", row(text=["a", "b"])),
    ("label of wrong type", row(label={"a": 1})),
    ("label of wrong type", row(label=["a"])),
    ("label of wrong type", b'{"text": "fine", "label": 1e999}'),
    ("empty text", row(text="")),
    ("empty text", row(text=" \t\u2003")),
    ("empty label", row(label=["yes", ""])),
]


@pytest.mark.parametrize(("reason", "bad"), JSON, ids=lambda case: case if isinstance(case, str) else "")
@pytest.mark.parametrize("named", [False, True])
def test_json(reason: str, bad: bytes, named: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([row(), row(), bad, b"", row(), b""]))
    judge(JsonFiles, path, reason, 3, 3, **({"columns": Columns(text="text", label="label")} if named else {}))


def test_json_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    labels = ["a", 1, -2.5, True, 10**18, "\U0001f600", 0]
    long = "token " * 100_000
    content = b"\r\n".join([*(row(label=label) for label in labels), b"  ", row(text=long)])
    path.write_bytes(b"\xef\xbb\xbf" + content)
    found = rows(JsonFiles, path, Rejects())
    assert [r["label"] for r in found] == ["a", "1", "-2.5", "true", "1000000000000000000", "\U0001f600", "0", "yes"]
    assert found[-1] == {"text": long, "label": "yes", "origin": f"{path}, line 9"}
    path.write_bytes(row(words=["a", "b"], tags=["X", "Y"]) + b"\n" + row(words="a  b", tags=[1, 2]))
    assert [(r["words"], r["tags"]) for r in rows(JsonFiles, path, Rejects())] == [
        (["a", "b"], ["X", "Y"]),
        (["a", "b"], ["1", "2"]),
    ]


TAGGED = [
    ("tags do not match words", ["a", "b"], ["X"]),
    ("tags do not match words", ["a", "b"], ["X", "Y", "Z"]),
    ("tags do not match words", "a b c", ["X", "Y"]),
    ("empty words", [], []),
    ("empty words", ["a", " "], ["X", "Y"]),
    ("null tags", ["a", "b"], ["X", None]),
    ("null tags", ["a", "b"], None),
    ("words of wrong type", ["a", ["b"]], ["X", "Y"]),
    ("tags of wrong type", ["a"], 7),
]


@pytest.mark.parametrize(("reason", "words", "tags"), TAGGED)
def test_tagged_json(reason: str, words: Any, tags: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = row(words=["a"], tags=["X"])
    path.write_bytes(b"\n".join([good, row(words=words, tags=tags), good]))
    judge(JsonFiles, path, reason, 2, 2)


CSV = [
    ("too many fields", b"fine,yes,3"),
    ("too few fields", b"fine"),
    ("unbalanced quotes", b'"never closed,yes'),
    ("unbalanced quotes", b'"closed" too early,yes'),
    ("not UTF-8", b"caf\xe9,yes"),
    ("not UTF-8", b'"two\nlines \xff",yes'),
    ("carriage return", b"old\rline,yes"),
    ("NUL character", b"a\0b,yes"),
    ("empty text", b",yes"),
    ("empty text", b'" ",yes'),
]


@pytest.mark.parametrize(("reason", "bad"), CSV)
@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(reason: str, bad: bytes, delimiter: str, header: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [b"text,label", b"fine,yes", b'"quoted, of\n""two"" lines",yes', bad, b'plain,"no"', b"", b"last,yes", b""]
    path.write_bytes(b"\n".join(lines).replace(b",", delimiter.encode()))
    knobs = {} if header else {"columns": Columns(text=0, label=1)}
    judge(CsvFiles, path, reason, 4 + (not header), 5, delimiter=delimiter, header=header, **knobs)


@pytest.mark.parametrize(("reason", "bad"), [*CSV[:2], CSV[4], *CSV[6:9]])
def test_tsv(reason: str, bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text,label\n"a "quote,"\n'.replace(b",", b"\t") + bad.replace(b",", b"\t") + b"\nlast\tyes\n")
    judge(CsvFiles, path, reason, 2, 3, delimiter="\t", quote=None)
    assert rows(CsvFiles, path, Rejects("skip", 0.5), delimiter="\t", quote=None)[0]["label"] == '"'


def test_after_an_open_quote_reading_goes_on_with_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\na,1\n"open,2\nb,3\n"d",4\n"open,5\nc,"6"\n' + b"e,7\n" * 1500)
    rejects = Rejects("skip")
    assert [r["text"] for r in rows(CsvFiles, path, rejects)] == ["a", "b", "d", "c"] + 1500 * ["e"]
    assert rejects.counts == {"unbalanced quotes": 6}


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1).filter(str.strip)


@given(cells=st.lists(st.tuples(CELL, CELL), min_size=1), ended=st.booleans())
def test_csv_is_read_as_it_is_written(
    cells: list[tuple[str, str]], ended: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label"), *cells])
    if not ended:
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert [(row["text"], row["label"]) for row in rows(CsvFiles, path, Rejects())] == cells


LABELS = [
    ("no label", ""),
    ("sentence with a\ttab", "ja"),
    ("two\nlines\n", "nein"),
    ('a "quote",', "ja"),
    ("é\u2028\x85", "ja"),
]


def test_csv_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "token " * 100_000
    text = "".join(f'"{a.replace(chr(34), 2 * chr(34))}",{b}\n' for a, b in [*LABELS, (long, "ja")])
    for end in ("\n", "\r\n"):
        path.write_bytes(b"\xef\xbb\xbf" + f"review, stars \n{text}\n".replace("\n", end).encode().rstrip())
        found = rows(CsvFiles, path, Rejects(), columns=Columns(text="review", label="stars"))
        assert [(row["text"], row["label"]) for row in found] == [*LABELS, (long, "ja")]
    assert [row["origin"].rpartition(", ")[2] for row in found] == [f"line {line}" for line in (2, 3, 4, 7, 8, 9)]


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_columns_that_are_not_there(policy: Any, tmp_path: Path) -> None:
    table, parquet = tmp_path / "a.csv", tmp_path / "a.parquet"
    table.write_text("review,stars,stars\na,b,c\n")
    pq.write_table(pa.table({"review": ["a"], "stars": ["b"]}), parquet)
    for source, path in ((CsvFiles, table), (ParquetFiles, parquet)):
        for columns, message in (
            (
                Columns(text="reviews"),
                r'no "reviews" \(did you mean review\?\), which data\.columns\.text= names; there',
            ),
            (Columns(), r"no text, words or source; there are review, stars.*data\.columns\.text=NAME"),
        ):
            with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: {message}"):
                rows(source, path, Rejects(policy, 1), columns=columns)
    with pytest.raises(InputError, match=r'2 columns are called "stars"; see data\.columns\.label='):
        rows(CsvFiles, table, Rejects(policy, 1), columns=Columns(text="review", label="stars"))
    for header, problem in ((b"te\xffxt,label", "not UTF-8"), (b'"text,label', "unbalanced quotes")):
        table.write_bytes(header + b"\na,b\n")
        with pytest.raises(InputError, match=rf"a\.csv, line 1: the header .*{problem}"):
            rows(CsvFiles, table, Rejects(policy, 1))
    (tmp_path / "a.jsonl").write_text('{"texts": "a", "b": 1}')
    with pytest.raises(InputError, match=r'line 1: no "text" \(did you mean texts\?\).*there are texts, b'):
        rows(JsonFiles, tmp_path / "a.jsonl", Rejects(), columns=Columns(text="text"))


def test_to_name_a_column_leaves_the_others_that_go_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("review,text,label,pair,source,tags\na,b,c,d,e,f\n")
    for columns, expected in (
        (Columns(), {"text": "b", "pair": "d", "label": "c", "tags": ["f"], "source": "e"}),
        (Columns(text="review"), {"text": "a", "pair": "d", "label": "c"}),
        (Columns(text="review", pair=False), {"text": "a", "label": "c"}),
        (Columns(label="pair"), {"text": "b", "label": "d"}),
        (Columns(target="review"), {"source": "e", "target": "a"}),
        (Columns(text="review", source="source"), {"text": "a", "pair": "d", "label": "c", "source": "e"}),
        (Columns(label=False, source=False, tags=False), {"text": "b", "pair": "d"}),
    ):
        (found,) = rows(CsvFiles, path, Rejects(), columns=columns)
        assert {field: value for field, value in found.items() if field != "origin"} == expected
    path.write_text("a,b\n")
    (found,) = rows(CsvFiles, path, Rejects(), header=False, columns=Columns(text=0, label=1))
    assert (found["text"], found["label"]) == ("a", "b")


def test_the_delimiter_is_one_character() -> None:
    for knobs in ({"delimiter": "||"}, {"quote": "''"}):
        with pytest.raises(InputError, match=r"data\.delimiter=.* data\.quote="):
            CsvFiles("a.csv", **knobs)  # type: ignore[arg-type]


CONLL = b"-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n"
CONLL_CASES = [
    ("tags do not match words", b"alone\n", 5),
    ("wrong number of columns", b"fine NN O\ntoo NN many O\n", 6),
    ("wrong number of columns", b"fine NN O\ntoo few\nlast NN O\n", 6),
    ("not UTF-8", b"fine NN O\ncaf\xe9 NN O\n", 6),
    ("NUL character", b"a\0b NN O\n", 5),
    ("empty words", b"\tNN\tO\n", 5),
    ("empty tags", b"fine\tNN\t\n", 5),
]


@pytest.mark.parametrize(("reason", "bad", "line"), CONLL_CASES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_conll(reason: str, bad: bytes, line: int, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes((CONLL[18:] + b"\n" + bad + b" \t\n" + CONLL + CONLL[18:].strip()).replace(b"\n", end))
    judge(ConllFiles, path, reason, 3, line)


def test_conll_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes(b"\xef\xbb\xbf# a comment\n" + CONLL + b"# NN O\n#tag NN O")
    assert rows(ConllFiles, path, Rejects(), comment="# a") == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"], "origin": f"{path}, line 4"},
        {"words": ["#", "#tag"], "tags": ["O", "O"], "origin": f"{path}, line 7"},
    ]
    assert rows(ConllFiles, path, Rejects(), comment="# ", words=-1, tags=1)[1]["tags"] == ["NN"]
    path.write_bytes(b"New York\tB\nis big\tO\n")
    assert rows(ConllFiles, path, Rejects())[0]["words"] == ["New York", "is big"]


def conllu(*words: tuple[str, str, str, str]) -> bytes:
    return "".join(f"{i}\t{w}\t{w}\t{u}\t{x}\t_\t_\t_\t_\t_\n" for i, w, u, x in words).encode()


GOOD = b"# text = vamonos al mar\n" + conllu(
    ("1-2", "vamonos", "_", "_"), ("1", "vamos", "VERB", "V"), ("2", "nos", "PRON", "P"), ("2.1", "e", "VERB", "_"),
    ("3-4", "al", "_", "_"), ("3", "a", "ADP", "S"), ("4", "el", "DET", "D"), ("5", "mar", "NOUN", "N"),
)  # fmt: skip
CONLLU_CASES = [
    ("wrong number of columns", b"1\tword\tword\tNOUN\n"),
    ("wrong number of columns", b"1 word word NOUN N _ _ _ _ _\n"),
    ("words out of order", conllu(("2", "word", "NOUN", "N"))),
    ("words out of order", conllu(("x", "word", "NOUN", "N"))),
    ("tags do not match words", conllu(("1", "word", "_", "_"))),
    ("not UTF-8", conllu(("1", "word", "NOUN", "N")).replace(b"w", b"\xff")),
    ("empty words", conllu(("1", "", "NOUN", "N"))),
]


@pytest.mark.parametrize(("reason", "bad"), CONLLU_CASES)
def test_conllu(reason: str, bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_bytes(b"\n".join([GOOD, bad, GOOD]))
    judge(ConlluFiles, path, reason, 2, 11)


def test_conllu_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    path.write_bytes(b"# newdoc\n\n" + GOOD)
    words = ["vamos", "nos", "a", "el", "mar"]
    for tags, expected in (("upos", ["VERB", "PRON", "ADP", "DET", "NOUN"]), ("xpos", ["V", "P", "S", "D", "N"])):
        row = {"words": words, "tags": expected, "origin": f"{path}, line 3"}
        assert rows(ConlluFiles, path, Rejects(), tags=tags) == [row]


TORN = [
    (JsonFiles, row() + b"\n" + row()[:-4]),
    (JsonFiles, row() + b"\n" + '{"text": "caf\u00e9'.encode()[:-1]),
    (CsvFiles, b"text,label\nfine,yes\nfi"),
    (CsvFiles, b'text,label\nfine,yes\n"fi'),
    (ConllFiles, b"fine O\n\nfine O\nfi"),
    (ConlluFiles, GOOD + b"\n" + GOOD[:-4]),
]


@pytest.mark.parametrize(("source", "content"), TORN)
def test_a_torn_last_line(source: Callable[..., RecordFiles], content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    judge(source, tmp_path / "a", "torn last line", 1, content.count(b"\n") + 1)
    with pytest.raises(InputError, match="the file ends within a line"):
        rows(source, tmp_path / "a", Rejects())


# What each reader takes, and what holds no record.
FILES: dict[Any, tuple[bytes, bytes]] = {
    JsonFiles: (row(), b"\n \n"),
    CsvFiles: (b"text,label\na,b", b"text,label\n\n"),
    ConllFiles: (b"word O", b"\n-DOCSTART-\n\n"),
    ConlluFiles: (GOOD, b"# only\n\n# comments\n"),
    TextFiles: (b"text", b"\n\n"),
}


@pytest.mark.parametrize("source", FILES)
def test_files_without_records(source: Callable[..., RecordFiles], tmp_path: Path) -> None:
    good, hollow = FILES[source]
    (tmp_path / "b").write_bytes(good)
    for content in (b"", b"\xef\xbb\xbf", hollow, gzip.compress(b"")):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(InputError, match=r"a: no record in it; see data\.path=$"):
            rows(source, tmp_path / "a", Rejects())
        with pytest.raises(InputError, match=r"1 of 1 rows.*a: no record in it; see data\.path="):
            rows(source, tmp_path / "a", Rejects("skip"))
        rejects = Rejects("skip", 0.5)
        assert len(rows(source, tmp_path / "[ab]", rejects)) == 1
        assert rejects.counts == {"empty file": 3}


WRONG = {
    JsonFiles: b"text,label\na,b\nc,d\n",
    ConllFiles: b"a,b\nc,d\n\ne,f\n",
    ConlluFiles: b"a X\nb Y\n\nc X\n",
    TextFiles: b"caf\xe9\n\xe9t\xe9\n",
}


@pytest.mark.parametrize("source", WRONG)
def test_nobody_is_advised_to_skip_all_rows(source: Callable[..., RecordFiles], tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(WRONG[source])
    other.write_bytes(FILES[source][0])
    with pytest.raises(InputError, match=rf"^{path}, line 1: .*; no row of the file can be used: see data=$"):
        rows(source, path, Rejects())
    with pytest.raises(InputError, match="no row of the file"):  # though there is one in another
        source(str(other), str(path), str(path)).read(Rejects())
    path.write_bytes(WRONG[source] + b"\n\n" + FILES[source][0])
    with pytest.raises(InputError, match=rf"^{path}, line 1: .*; data\.on_error=skip leaves such rows out$"):
        rows(source, path, Rejects())


@pytest.mark.parametrize("array", [[{"text": "a"}, {"text": "b"}], []])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_where_lines_are_expected(array: list[Any], indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(array, indent=indent))
    with pytest.raises(
        InputError, match=r"line 1: .*write each object on a line of its own, as jq -c '\.\[\]' FILE does"
    ):
        rows(JsonFiles, path, Rejects())
    path.write_text('{"text": "a')
    with pytest.raises(InputError, match=r"not JSON \(Unterminated string starting at character 10\); no row"):
        rows(JsonFiles, path, Rejects())


HINTS = [
    (b"text;label\na, b;c\n", {}, "divided by ';': try \"data.delimiter=';'\""),
    (b"text|label\n", {}, "divided by '|': try \"data.delimiter='|'\""),
    (b"text\tlabel\n", {}, "divided by tabs: try data=tsv"),
    (b"text,label\n", {"delimiter": "\t"}, "divided by commas: try data=csv"),
    (b"a;b\n", {"header": False, "columns": Columns(text=0, label=1)}, "divided by ';': try"),
    (b"a film that is fine,yes\n", {}, "no header: try data.header=false"),
    (b'{"text": "fine", "label": "yes"}\n', {}, "JSON lines: try data=json"),
    (b"fine,0.5\n", {}, "no header: try data.header=false"),
    (b"fine,yes\n", {"columns": Columns(text=0)}, "no header: try data.header=false"),
    (b",review,star rating\n", {}, None),
    (b"a; review,stars\n", {}, None),
    (b"0,1\n", {"header": False, "columns": Columns(text=2)}, None),
]


@pytest.mark.parametrize(("content", "knobs", "hint"), HINTS)
def test_what_the_first_row_says_of_the_format(
    content: bytes, knobs: dict[str, Any], hint: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: no ") as raised:
        rows(CsvFiles, path, Rejects(), **knobs)
    assert ("seem" in str(raised.value)) == (hint is not None)
    assert hint is None or hint in str(raised.value)


@pytest.mark.parametrize("source", [*FILES, ParquetFiles])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_files_that_cannot_be_read(source: Callable[..., RecordFiles], policy: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.path=.*b matches no file"):
        rows(source, tmp_path / "b", Rejects(policy, 1))
    with pytest.raises(InputError, match=r"^data\.path=.* is a folder"):
        rows(source, tmp_path, Rejects(policy, 1))
    good, _ = FILES.get(source, (b"", b""))
    packed = gzip.compress(b"\n\n".join([good] * 1000) + os.urandom(1000).replace(b"\n", b""))
    (tmp_path / "a").write_bytes(packed[: len(packed) // 2])
    damaged = "cannot be read as Parquet" if source is ParquetFiles else "is damaged: Compressed file ended"
    with pytest.raises(InputError, match=rf"a {damaged}"):
        rows(source, tmp_path / "a", Rejects(policy, 1))


def pair(folder: Path, source: bytes, target: bytes, rejects: Rejects) -> list[dict[str, Any]]:
    (folder / "a.en").write_bytes(source)
    (folder / "a.de").write_bytes(target)
    both = (str(folder / "a.en"), str(folder / "a.de"))
    return ParallelFiles(*both, both, both).read(rejects)["train"].to_pylist()


PARALLEL = [
    ("empty source", b" ", b"gut"),
    ("empty target", b"good", b""),
    ("not UTF-8", b"good", b"\xfcbel"),
    ("NUL character", b"\0", b"gut"),
]


@pytest.mark.parametrize(("reason", "source", "target"), PARALLEL)
def test_parallel(reason: str, source: bytes, target: bytes, tmp_path: Path) -> None:
    files = b"one\n" + source + b"\nthree\n", gzip.compress(b"\xef\xbb\xbfeins\r\n" + target + b"\r\ndrei")
    with pytest.raises(InputError, match=r"a\.en and a\.de, line 2: .*data\.on_error=skip"):
        pair(tmp_path, *files, Rejects())
    rejects = Rejects("skip", 0.5)
    assert pair(tmp_path, *files, rejects) == [
        {"source": "one", "target": "eins", "origin": f"{tmp_path}/a.en and a.de, line 1"},
        {"source": "three", "target": "drei", "origin": f"{tmp_path}/a.en and a.de, line 3"},
    ]
    assert rejects.counts == {reason: 3}


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_parallel_files_of_different_lengths(policy: Any, tmp_path: Path) -> None:
    for source, target, counts in ((b"a\n" * 5, b"b\n" * 3, (5, 3)), (b"", b"b", (0, 1))):
        with pytest.raises(InputError, match=rf"lines: .*a\.en has {counts[0]} and .*a\.de has {counts[1]}; give"):
            pair(tmp_path, source, target, Rejects(policy, 1))
    with pytest.raises(InputError, match="no line in them") as raised:
        pair(tmp_path, b"", b"", Rejects(policy, 0.5))
    assert "data.on_error=skip" not in str(raised.value)
    (tmp_path / "b.en").write_bytes(b"more")
    with pytest.raises(InputError, match=r"\*\.en is 2 files, but .*\*\.de 1 file; each"):
        ParallelFiles(str(tmp_path / "*.en"), str(tmp_path / "*.de")).fingerprint()


PARQUET = [
    ("null text", {"text": [None]}),
    ("null label", {"label": [None]}),
    ("null label", {"label": [-1]}),
    ("empty text", {"text": [""]}),
    ("NUL character", {"text": ["a\0"]}),
    ("not UTF-8", {"text": pa.array([b"caf\xe9"]).view(pa.string())}),
    ("not UTF-8", {"tags": pa.array([[b"caf\xe9"]]).view(pa.list_(pa.string()))}),
    ("tags do not match words", {"tags": [["X", "Y"]]}),
]


@pytest.mark.parametrize(("reason", "bad"), PARQUET, ids=lambda case: case if isinstance(case, str) else "")
def test_parquet(reason: str, bad: dict[str, Any], tmp_path: Path) -> None:
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
        words=datasets.List(datasets.Value("string")),
        tags=datasets.List(datasets.Value("string")),
    )
    good = {"text": ["fine"], "label": [1], "words": [["a"]], "tags": [["X"]]}
    schema = features.arrow_schema
    parts = [pa.table(values, schema) for values in (good, good, {**good, **bad}, good)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.concat_tables(parts), path)
    judge(ParquetFiles, path, reason, 3, 3)
    assert {row["label"] for row in rows(ParquetFiles, path, Rejects("skip", 0.9))} == {"yes"}


def test_parquet_of_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1]}), path)
    with pytest.raises(InputError, match=r"a\.parquet, row 1: the text is a number \(1\); expected a string"):
        rows(ParquetFiles, path, Rejects())


def test_parquet_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "translation": [{"en": "one", "de": "eins"}] * 1500,
            "label": pa.array(["a", "b", "c"] * 500).dictionary_encode(),
            "score": [0.5] * 1500,
        }
    )
    pq.write_table(table, path)
    columns = Columns(source="translation.en", target="translation.de", label="label")
    found = rows(ParquetFiles, path, Rejects(), columns=columns)
    assert found[1400] == {"label": "c", "source": "one", "target": "eins", "origin": f"{path}, row 1401"}
    scores = rows(ParquetFiles, path, Rejects(), columns=Columns(text="translation.en", label="score"))
    assert {row["label"] for row in scores} == {"0.5"}
