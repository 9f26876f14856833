"""Files that are whole after a crash: written beside, flushed to the disk, renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from seqlab.errors import InputError


def write_file(path: Path, content: bytes) -> None:
    """Writes and flushes a file under its final name; for files inside a folder that is not yet visible."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Makes durable what others have written there."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """A file, a folder with all that is in it, or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: a rename is on the disk only after its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of whatever `path` held when all is written; where that fails, it goes.

    A reader sees the old file or the new one, never a part. Where `path` is a link, it stays one.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    os.replace(beside, path)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Puts content in place of whatever `path` held."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder`, whole, when the block ends; if it raises nothing changes.

    What is written in it must be flushed, as `write_file` does. `folder.parent` exists.
    """
    beside, before = folder.with_name(f".{folder.name}.new"), replaced(folder)
    remove(beside)
    if before.exists() and not folder.exists():  # a crash came between the two renames below
        before.rename(folder)
    beside.mkdir()
    try:
        yield beside
        remove(before)
        if folder.exists():
            folder.rename(before)
        beside.rename(folder)
    except BaseException:
        if before.exists() and not folder.exists():
            before.rename(folder)
        remove(beside)
        raise
    sync_folder(folder.parent)
    remove(before)


def replaced(folder: Path) -> Path:
    """Where `new_folder` puts what it replaces, and where a crash can leave it."""
    return folder.with_name(f".{folder.name}.old")


def require_place(path: Path) -> None:
    """Whether a result can be written there, asked before it is computed.

    Raises:
        InputError: the folder does not exist or cannot be written, or a folder, a device or a pipe is in the way.
    """
    given, path = path, path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"output={given} is no file that could be replaced: give another, or leave output out to print"
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"output={given} cannot be written: expected a file in a folder that exists and is writable")


def replace_link(path: Path, target: str) -> None:
    """A relative symbolic link, replaced in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, path)
    sync_folder(path.parent)
