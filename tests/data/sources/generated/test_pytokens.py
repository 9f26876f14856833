"""The functions of the standard library: in which split, once each, and no more than asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources import stdlib
from seqlab.data.sources.generated.pytokens import PyTokens
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError

# Which of one-letter modules go where.
LETTERS = {
    split: [c for c in "abcdefghijklmnopqrstuvwxyz" if stdlib.split_of_file(Path(f"{c}.py")) == split]
    for split in SPLITS
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one module for each split, with two functions."""
    for split in SPLITS:
        (tmp_path / f"{LETTERS[split][0]}.py").write_text(f"def {split}(a):\n    return b\ndef g_{split}(): pass\n")
    monkeypatch.setattr(stdlib, "library", lambda: tmp_path)
    return tmp_path


def rows(source: PyTokens, split: str = "train") -> list[dict[str, Any]]:
    return source.read(Rejects())[split].to_pylist()


def test_what_is_read(library: Path) -> None:
    for split in SPLITS:
        first, second = rows(PyTokens(), split)
        file = f"{LETTERS[split][0]}.py"
        assert first == {
            "words": ["def", split, "(", "a", ")", ":", "<newline>", "<indent>", "return", "b"],
            "tags": ["O", "definition", "O", "parameter", "O", "O", "O", "O", "O", "global"],
            "origin": f"{file}, line 1",
        }
        assert second["words"] == ["def", f"g_{split}", "(", ")", ":", "pass"]
        assert second["origin"] == f"{file}, line 3"
    assert PyTokens().metadata() == {
        "python": stdlib.python(),
        "files": 3,
        "files_not_parsed": 0,
        "too_long": 0,
        "duplicates": 0,
        "not_understood": 0,
        "functions": {split: 2 for split in SPLITS},
        "tags": {"O": 36, "definition": 6, "parameter": 3, "global": 3},
    }


def test_one_that_occurs_twice_is_kept_once(library: Path) -> None:
    for split in SPLITS:
        with (library / f"{LETTERS[split][0]}.py").open("a") as file:
            file.write("def same(): return 'one'\ndef same(): return 'two'\n")
    source = PyTokens()
    found = [row["words"] for split in SPLITS for row in rows(source, split)]
    assert sum(words[1] == "same" for words in found) == 1
    assert source.metadata()["duplicates"] == 5


def test_sizes_are_the_most_there_are(library: Path) -> None:
    source = PyTokens(train=1, test=None)
    assert source.metadata()["functions"] == {"train": 1, "validation": 2, "test": 2}
    # A split that is full wants no further files.
    for letter in LETTERS["train"][1:6]:
        (library / f"{letter}.py").write_text("def (")
    assert PyTokens(train=None).metadata()["files_not_parsed"] == 5
    assert PyTokens(train=None).metadata()["functions"]["train"] == 2


def test_long_ones_and_files_that_are_no_text_are_left_out(library: Path) -> None:
    (library / f"{LETTERS['train'][1]}.py").write_bytes(b"def f(): '\xff'")
    source = PyTokens(max_words=9)
    assert [row["words"][1] for row in rows(source)] == ["g_train"]
    assert source.metadata()["too_long"] == 3
    assert source.metadata()["files_not_parsed"] == 1
    assert len(rows(PyTokens(max_words=10))) == 2


def test_a_split_without_functions(library: Path) -> None:
    (library / f"{LETTERS['test'][0]}.py").unlink()
    with pytest.raises(InputError, match=r"no functions for test .*\(2 files\); raise data\.max_words"):
        PyTokens().read(Rejects())


def test_the_fingerprint_follows_knobs_and_files(library: Path) -> None:
    prints = {PyTokens().fingerprint(), PyTokens(train=3).fingerprint(), PyTokens(max_words=None).fingerprint()}
    assert PyTokens().fingerprint() in prints
    (library / "new.py").write_text("")
    assert len(prints | {PyTokens().fingerprint()}) == 4


@pytest.mark.parametrize("knob", ["train", "validation", "test", "max_words"])
def test_what_cannot_be(knob: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{knob}=0 leaves nothing; give at least 1, or null"):
        PyTokens(**{knob: 0})


def test_the_library_itself() -> None:
    source = PyTokens(train=300, validation=60, test=60)
    assert source.metadata()["functions"] == {"train": 300, "validation": 60, "test": 60}
    assert source.metadata()["not_understood"] == 0
    assert len(source.metadata()["tags"]) >= 9
    everything = [row for split in SPLITS for row in rows(source, split)]
    assert len({tuple(row["words"]) for row in everything}) == 420
    assert all(len(row["words"]) == len(row["tags"]) <= 500 for row in everything)
    for split in SPLITS:
        assert all(stdlib.split_of_file(Path(row["origin"].split(",")[0])) == split for row in rows(source, split))
