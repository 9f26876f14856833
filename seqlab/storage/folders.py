"""Folders that appear, change and disappear whole: a crash at any moment leaves the old folder or the new one.

NAME         the folder
.NAME.tmp    a new one that is being written, or an old one that is being removed; worthless after a crash
.NAME.old    the old one while the new one takes its place; after a crash it is the only one, and comes back
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqlab.storage.files import remove, sync_file, sync_folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `folder`, whole, when the block ends.

    All files in it are flushed to the disk before it gets its name. Where the block or a rename raises, the old folder
    stays. Only one process at a time may write `folder`; `folder.parent` exists.
    """
    recover(folder)
    beside, before = _beside(folder), replaced(folder)
    try:
        beside.mkdir()
        yield beside
        _sync(beside)
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


def remove_folder(folder: Path) -> None:
    """Remove a folder that may be read meanwhile: nobody sees a part of it under its name."""
    remove(_beside(folder))
    remove(folder.rename(_beside(folder)))


def recover(folder: Path) -> None:
    """Clear away what a crash left of `new_folder` and `remove_folder`; a replaced folder without a successor returns.

    Only the process that may write `folder` may call this.
    """
    remove(_beside(folder))
    before = replaced(folder)
    if before.exists() and not folder.exists():
        before.rename(folder)
    remove(before)


def recover_all(parent: Path, pattern: str) -> None:
    """Call `recover` for each folder in `parent` whose name matches a glob pattern, whether it is there or not."""
    for suffix in (".tmp", ".old"):
        for path in parent.glob(f".{pattern}{suffix}"):
            recover(path.with_name(path.name[1:].removesuffix(suffix)))


def replaced(folder: Path) -> Path:
    """Return where `new_folder` puts the folder that it replaces, and where a crash can leave it."""
    return folder.with_name(f".{folder.name}.old")


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp")


def _sync(folder: Path) -> None:
    """Make all files in a folder durable, then the names in it and in its subfolders."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))
