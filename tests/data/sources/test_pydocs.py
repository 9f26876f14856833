"""The standard library's docstrings: all of them, once each, no module in two splits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources import stdlib
from seqlab.data.sources.pydocs import PyDocs
from seqlab.data.sources.source import SPLITS, split_of
from seqlab.errors import InputError

SALT = "seqlab 13 "


def texts(source: PyDocs) -> dict[str, list[str]]:
    return {split: table["text"].to_pylist() for split, table in source.read(Rejects()).items()}


@pytest.fixture(scope="module")
def real() -> PyDocs:
    source = PyDocs()
    source.read(Rejects())
    return source


def test_every_split_holds_something_sensible(real: PyDocs) -> None:
    metadata = real.metadata()
    total = sum(metadata["bytes"].values())
    assert total > 1_000_000
    for split in ("validation", "test"):
        assert 0.07 < metadata["bytes"][split] / total < 0.14
    assert metadata["python"].endswith(sys.version.split()[0])
    assert metadata["docstrings"] == sum(map(len, texts(real).values()))
    assert metadata["duplicates_removed"] > 0
    assert metadata["files"] > 400


def test_no_docstring_occurs_twice_or_is_empty(real: PyDocs) -> None:
    found = [text for split in SPLITS for text in texts(real)[split]]
    assert len(set(found)) == len(found)
    assert all(text.strip() for text in found)


def test_known_docstrings_are_where_their_module_is(real: PyDocs) -> None:
    import contextlib
    import json
    import logging

    for module, documented in (
        ("json", json.dumps),
        ("logging", logging.getLogger),
        ("contextlib", contextlib.suppress),
    ):
        split = split_of(SALT + module)
        first_line = (documented.__doc__ or "").strip().splitlines()[0]
        assert any(text.startswith(first_line) for text in texts(real)[split]), module


def test_tests_and_packages_are_left_out(real: PyDocs) -> None:
    folders = {part for path in stdlib.files(stdlib.library()) for part in path.parts[:-1]}
    assert "asyncio" in folders
    assert not folders & {"site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "__pycache__"}
    assert not any(folder.startswith("config-") for folder in folders)


# Which of one-letter modules go where, by the salt.
LETTERS = {split: [c for c in "abcdefghijklmnopqrstuvwxyz" if split_of(SALT + c) == split] for split in SPLITS}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one module for each split."""
    for split in SPLITS:
        (tmp_path / f"{LETTERS[split][0]}.py").write_text(f'"""About {split}."""\n')
    monkeypatch.setattr(stdlib, "library", lambda: tmp_path)
    return tmp_path


def test_what_is_read(library: Path) -> None:
    module = library / LETTERS["test"][0]
    module.with_suffix(".py").unlink()
    (module / "inner").mkdir(parents=True)
    (module / "test").mkdir()
    (module / "__init__.py").write_text(
        '"""Module."""\nclass A:\n    """  Class.\n\n        indented\n      half\n    """\n'
    )
    (module / "inner" / "deep.py").write_text(
        'async def f():\n    "F."\n    def g():\n        "G."\n        "not a docstring"\n'
        'x = "not this"\ndef h():\n    "  "\n'
    )
    (module / "test" / "hidden.py").write_text('"""Hidden."""')
    assert texts(PyDocs()) == {
        "train": ["About train."],
        "validation": ["About validation."],
        "test": ["Module.", "Class.\n\n  indented\nhalf", "F.", "G."],
    }


def test_a_docstring_in_two_modules_stays_with_the_first(library: Path) -> None:
    first, second = sorted([LETTERS["train"][0], LETTERS["test"][0]])
    for name in (first, second):
        with (library / f"{name}.py").open("a") as file:
            file.write('def f():\n    "Shared."\n')
    splits = texts(PyDocs())
    assert "Shared." in splits[split_of(SALT + first)]
    assert sum(found.count("Shared.") for found in splits.values()) == 1
    assert PyDocs().metadata()["duplicates_removed"] == 1


def test_what_cannot_be_parsed_or_written_is_counted_or_dropped(library: Path) -> None:
    name = LETTERS["train"][1]
    (library / f"{name}1.py").write_text("def (:\n")
    (library / f"{name}2.py").write_bytes(b'"""nul\x00"""')
    (library / f"{name}3.py").write_bytes(b'"""\xff"""')
    (library / f"{name}4.py").write_text('"""Half \\ud800 a pair."""\ndef f():\n    "An old \\d escape."\n')
    (library / f"{name}5.py").write_bytes(b'# coding: latin-1\n"""Caf\xe9."""')
    found = [text for docstrings in texts(PyDocs()).values() for text in docstrings]
    assert PyDocs().metadata()["files_not_parsed"] == 3
    assert r"An old \d escape." in found
    assert "Café." in found
    assert not any("Half" in text for text in found)


def test_the_fingerprint_follows_names_and_sizes(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = PyDocs().fingerprint()
    assert PyDocs().fingerprint() == before
    (library / "new.py").write_text("")
    with_file = PyDocs().fingerprint()
    (library / "new.py").write_text("x = 1")
    with_text = PyDocs().fingerprint()
    monkeypatch.setattr(stdlib, "python", lambda: "CPython 3.99")
    assert len({before, with_file, with_text, PyDocs().fingerprint()}) == 4


def test_a_library_without_sources(library: Path) -> None:
    (library / f"{LETTERS['test'][0]}.py").unlink()
    with pytest.raises(InputError, match=r"no docstrings for test .*data=text data\.path="):
        texts(PyDocs())
