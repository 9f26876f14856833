"""Files that are whole after a crash: written beside, flushed to the disk, renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from seqlab.errors import InputError


def write_file(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk; for files inside a folder that is not yet visible."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def open_plain(path: Path) -> Iterator[BufferedReader]:
    """Open a plain file for reading. Links are not followed, and a pipe is not waited for.

    Raises:
        OSError: there is no file, or it is a link, a folder, a pipe or a device.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        yield file


def read_plain(path: Path) -> bytes:
    """Return what a plain file holds. Raise as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def sync_file(path: Path) -> None:
    """Flush to the disk what others have written to a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename is on the disk only after its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; do nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` when the block ends; where the block raises, it is removed.

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
    """Replace whatever `path` holds by `content`."""
    with replacing(path) as file:
        file.write(content)


def replace_link(path: Path, target: str) -> None:
    """Replace a relative symbolic link in one step."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.replace(beside, path)
    sync_folder(path.parent)


def require_place(path: Path) -> None:
    """Check that a result can be written to `path`, before it is computed.

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
