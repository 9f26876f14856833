"""Lines as they are, compressed or not, and what is wrong with a file, by its name."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.data.sources.files import fingerprint, lines, matching
from seqlab.errors import InputError


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_marks_ends_and_compression(mark: bytes, pack: type[bytes], tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    file.write_bytes(pack(mark + b"one\r\ntwo\rstill\xff\n\n\xef\xbb\xbflast\r"))
    assert list(lines(file)) == [
        (1, b"one", True),
        (2, b"two\rstill\xff", True),
        (3, b"", True),
        (4, b"\xef\xbb\xbflast\r", False),
    ]


@given(parts=st.lists(st.binary().filter(lambda part: b"\n" not in part)))
def test_lines_are_what_split_gives(parts: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "lines"
    content = b"-" + b"\n".join(parts)  # no mark, no magic number
    file.write_bytes(content)
    *ended, last = content.split(b"\n")
    expected = [line.removesuffix(b"\r") for line in ended] + ([last] if last else [])
    assert [line.content for line in lines(file)] == expected
    assert [line.number for line in lines(file)] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("cut", [3, 15, -9, -1])
def test_damaged_compression(cut: int, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(os.urandom(100) + b"line\n" * 1000)[:cut])
    with pytest.raises(InputError, match=r"a\.gz is damaged"):
        list(lines(tmp_path / "a.gz"))
    whole = bytearray(gzip.compress(b"line\n" * 1000))
    whole[15] ^= 255
    (tmp_path / "a.gz").write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.gz is damaged"):
        list(lines(tmp_path / "a.gz"))


def test_a_file_that_went_away(tmp_path: Path) -> None:
    for read in (lambda: list(lines(tmp_path / "gone")), lambda: fingerprint("", {"train": [tmp_path / "gone"]})):
        with pytest.raises(InputError, match=r"cannot read .*gone: No such file"):
            read()


def test_patterns(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt", "a[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()

    def found(pattern: str) -> list[str]:
        return [file.relative_to(tmp_path).as_posix() for file in matching(str(tmp_path / pattern), "data.path")]

    assert found("*.txt") == ["a.txt", "a[1].txt", "b.txt"]
    assert found("**/*.txt") == ["a.txt", "a[1].txt", "b.txt", "deep/c.txt"]
    assert found("a[1].txt") == ["a[1].txt"]
    for pattern, problem in (("deep", "is a folder"), ("c.txt", "matches no file"), ("folder.t*", "matches no file")):
        with pytest.raises(InputError, match=rf"^data\.path=.*{problem}"):
            found(pattern)


@pytest.mark.parametrize(
    ("data", "pattern", "advised"),
    [
        (None, "data/trec6/train.jsonl", True),
        ("raw", "raw/trec6/train.jsonl", True),
        ("/raw/", "/raw//trec6/train.jsonl", True),
        (None, "data/train.jsonl", False),
        (None, "mine/trec6/train.jsonl", False),
        ("raw", "data/trec6/train.jsonl", False),
        ("", "mine/trec6/train.jsonl", False),
    ],
)
def test_where_the_data_of_an_experiment_come_from(
    data: str | None, pattern: str, advised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQLAB_DATA", raising=False)
    if data is not None:
        monkeypatch.setenv("SEQLAB_DATA", data)
    with pytest.raises(InputError, match=rf"^data\.path={pattern} matches no file") as raised:
        matching(pattern, "data.path")
    for advice in ("SEQLAB_DATA=FOLDER", "python scripts/reproduce.py --data RAW --only"):
        assert (advice in str(raised.value)) == advised
