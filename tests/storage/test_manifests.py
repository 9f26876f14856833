"""Every damage of a file that a manifest lists is found, and told by file and reason."""

from __future__ import annotations

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqlab.storage.manifests import (
    FILE,
    DamagedError,
    digest,
    digests,
    read_manifest,
    read_verified,
    verify,
    write_manifest,
)

CONTENT = {"a": b"some", "b.json": b"", "inner/c": bytes(range(256)) * 300}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path, digests(tmp_path))
    return tmp_path


def check(folder: Path) -> Any:
    """Read a folder both ways, which must agree."""
    listed = read_manifest(folder)
    found: list[Any] = []
    for read in (read_verified, verify):
        try:
            found.append(read(folder, listed))
        except DamagedError as error:
            found.append(str(error))
    content, streamed = found
    if isinstance(content, str):
        assert content == streamed
        raise DamagedError(content)
    assert streamed is None
    return content


def test_what_was_written_is_read(folder: Path) -> None:
    assert check(folder) == CONTENT
    assert read_manifest(folder) == {name: digest(content) for name, content in CONTENT.items()}
    described = json.loads((folder / FILE).read_text())
    assert {name: entry["bytes"] for name, entry in described["files"].items()} == {
        "a": 4,
        "b.json": 0,
        "inner/c": 76800,
    }


@pytest.mark.parametrize("name", ["a", "inner/c", FILE])
def test_every_damage_is_found(folder: Path, name: str) -> None:
    file, randomly = folder / name, random.Random(name)
    content = file.read_bytes()
    places = [0, len(content) - 1, *(randomly.randrange(len(content)) for _ in range(20))]
    flipped = [content[:i] + bytes([content[i] ^ (1 << randomly.randrange(8))]) + content[i + 1 :] for i in places]
    for damaged in (*flipped, content[:-1], content[: len(content) // 2], b"", content + b" "):
        file.write_bytes(damaged)
        with pytest.raises(DamagedError, match=f"^{name}: "):
            check(folder)
    file.write_bytes(content)
    check(folder)


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (lambda file: None, "No such file"),
        (lambda file: file.symlink_to("b.json"), "symbolic link"),
        (os.mkfifo, "no plain file"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
@pytest.mark.parametrize("name", ["a", FILE])
def test_what_is_no_file_is_told(folder: Path, name: str, put: Callable[[Path], object], reason: str) -> None:
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(DamagedError, match=f"^{name}: .*{reason}"):
        check(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": []}', '{"files": {"a": "00"}}', "[" * 100_000])
def test_what_is_no_manifest_is_told(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(DamagedError, match=r"manifest\.json: it does not agree with its own digest"):
        read_manifest(folder)


def test_large_files_are_read_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(32 << 20)
    tracemalloc.start()
    verify(tmp_path, digests(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
