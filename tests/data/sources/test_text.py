"""Lines, paragraphs, files; splits that share nothing; and what is wrong with a file, by name and line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources.source import SPLITS
from seqlab.data.sources.text import TextFiles
from seqlab.errors import InputError

CORPUS = Path(__file__).parents[2] / "corpus"


def texts(source: TextFiles, rejects: Rejects | None = None) -> dict[str, list[str]]:
    return {split: table["text"].to_pylist() for split, table in source.read(rejects or Rejects()).items()}


def given(folder: Path, content: bytes, unit: str = "line", rejects: Rejects | None = None) -> list[dict[str, str]]:
    """What a file with this content gives as training text."""
    (folder / "train.txt").write_bytes(content)
    (folder / "held_out.txt").write_text("held out")
    held_out = str(folder / "held_out.txt")
    source = TextFiles(str(folder / "train.txt"), held_out, held_out, unit=unit)
    return source.read(rejects or Rejects())["train"].to_pylist()


def test_the_projects_own_corpus() -> None:
    splits = texts(TextFiles(*(str(CORPUS / f"{split}.txt") for split in SPLITS)))
    assert [len(splits[split]) for split in SPLITS] == [300, 40, 40]
    lines = [line for split in SPLITS for line in splits[split]]
    assert len(set(lines)) == 380
    words = [len(line.split()) for line in lines]
    assert (min(words), max(words)) == (1, 60)
    assert not all(line.isascii() for line in splits["test"])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["one", "  two\u2028still two", "three\x0c", "four \rfour"]),
        ("paragraph", ["one\n  two\u2028still two", "three\x0c\nfour \rfour"]),
        ("file", ["one\n  two\u2028still two\n\n \t\n\nthree\x0c\nfour \rfour"]),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_units_marks_and_line_ends(unit: str, expected: list[str], mark: bytes, end: str, tmp_path: Path) -> None:
    text = "\none\n  two\u2028still two\n\n \t\n\nthree\x0c\nfour \rfour\n\n"
    rows = given(tmp_path, mark + text.replace("\n", end).encode(), unit)
    assert [row["text"] for row in rows] == expected
    at = {"line": [2, 3, 7, 8], "paragraph": [2, 7], "file": [1]}
    assert [row["origin"] for row in rows] == [f"{tmp_path}/train.txt, line {number}" for number in at[unit]]


@pytest.mark.parametrize(("unit", "kept"), [("line", ["a", "c", "d"]), ("paragraph", ["d"])])
def test_what_cannot_be_used_is_left_out(unit: str, kept: list[str], tmp_path: Path) -> None:
    content, rejects = b"a\n\xff\nc\n\n\nd\n\0", Rejects("skip", 0.9)
    content = content.replace(b"\nd\n", b"\nd\n\n")
    assert [row["text"] for row in given(tmp_path, content, unit, rejects)] == kept
    assert rejects.counts == {"not UTF-8": 1, "NUL character": 1}
    with pytest.raises(InputError, match=r"train\.txt, line 2: not UTF-8"):
        given(tmp_path, content, unit)


def test_cut_splits_share_no_text_and_lose_none(tmp_path: Path) -> None:
    lines = [f"line {i % 250}" for i in range(1000)]  # each four times
    (tmp_path / "all.txt").write_text("\n".join(lines))
    splits = texts(TextFiles(str(tmp_path / "all.txt")))
    assert sorted(line for split in SPLITS for line in splits[split]) == sorted(lines)
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(splits[a]) & set(splits[b])
    for split in ("validation", "test"):
        assert 40 < len(splits[split]) < 180


def test_several_files_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".txt").write_text(name)
    files = str(tmp_path / "**/*.txt")
    source = TextFiles(files, files, files)
    assert texts(source)["train"] == ["a", "b", "deep/c"]
    assert source.metadata() == {"files": {"train": 3, "validation": 3, "test": 3}}


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    shutil.copytree(CORPUS, tmp_path / "a")
    shutil.copytree(CORPUS, tmp_path / "b")
    a, b = (str(tmp_path / copy / "train.txt") for copy in "ab")
    test = str(tmp_path / "a" / "test.txt")
    prints = {TextFiles(a).fingerprint(), TextFiles(a, unit="file").fingerprint(), TextFiles(a, test).fingerprint()}
    assert len(prints | {TextFiles(a, test=test).fingerprint()}) == 4
    assert TextFiles(b).fingerprint() == TextFiles(a).fingerprint()
    text = Path(b).read_bytes()
    Path(b).write_bytes(text[:-2] + b"?\n")
    assert TextFiles(b).fingerprint() != TextFiles(a).fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"data\.path=.*train\.txt matches no file"),
        (b"", r"train\.txt: no record in it.*data\.path="),
        (b" \n\t\r\n", r"train\.txt: no record in it"),
        (b"\xef\xbb\xbf \n", r"train\.txt: no record in it"),
        (b"one\r\ntwo\nthr\xffee\n", r"train\.txt, line 3: not UTF-8 \(byte 0xff"),
        (b"caf\xe9 on line one\n", r"train\.txt, line 1: not UTF-8"),
        (b"half a surrogate pair \xed\xa0\xbd", r"line 1: not UTF-8"),
        ("zwei".encode("utf-16"), r"line 1: not UTF-8"),
        (b"torn off: \xf0\x9f", r"line 1: not UTF-8"),
        (
            b"only\ntwo lines",
            r"nothing for (validation|test): .*has 2 records.*data\.(validation|test)=",
        ),
    ],
)
def test_bad_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        TextFiles(str(tmp_path / "train.txt")).read(Rejects())


def test_errors_name_the_override_they_belong_to(tmp_path: Path) -> None:
    train = str(CORPUS / "train.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match=r"data\.validation="):
        TextFiles(train, validation=str(tmp_path / "empty.txt")).read(Rejects())
    with pytest.raises(InputError, match=r"data\.test=.*is a folder"):
        TextFiles(train, test=str(tmp_path)).fingerprint()
    with pytest.raises(InputError, match=r"data\.unit=lines .*did you mean line\?"):
        TextFiles(train, unit="lines")
