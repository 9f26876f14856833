"""Files that are whole after a crash: written beside, flushed to the disk, renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqlab.errors import InputError


def write_file(path: Path, content: bytes) -> None:
    """Writes and flushes a file under its final name; for files inside a folder that is not yet visible."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable: a rename is on the disk only after its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Puts content in place of whatever `path` held; a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.tmp")
    write_file(beside, content)
    os.replace(beside, path)
    sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder`, whole, when the block ends; if it raises nothing changes.

    What is written in it must be flushed, as `write_file` does. `folder.parent` exists.
    """
    beside, before = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if folder.exists():  # else a save was cut short, and what it replaced stays until this one is whole
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
    beside.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def require_place(path: Path) -> None:
    """Whether a result can be written there, asked before it is computed.

    Raises:
        InputError: the folder does not exist or cannot be written, or a folder is in the way.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"output={path} cannot be written: expected a file in a folder that exists and is writable")


def replace_link(path: Path, target: str) -> None:
    """A relative symbolic link, replaced in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, path)
    sync_folder(path.parent)
