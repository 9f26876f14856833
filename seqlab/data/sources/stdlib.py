"""The sources of the running Python's standard library: which files there are, and which split each belongs to."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from seqlab.data.sources.source import split_of

# Installed packages, tests, an application, and the build's own folders are not the library.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "__pycache__"}

# Chosen among a few hundred for one thing only: in Python 3.11, 3.12 and 3.13 both held-out splits come to 10 or 11 %
# of the bytes of all docstrings and no single module makes up most of either. What a module is called decides where it
# goes, for ever.
_SALT = "seqlab 13 "


def python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def files(folder: Path) -> list[Path]:
    """Its source files, relative to it, sorted."""

    def walk() -> Iterator[Path]:
        for parent, subfolders, names in os.walk(folder):
            subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT and not name.startswith("config-")]
            yield from (Path(parent, name).relative_to(folder) for name in names if name.endswith(".py"))

    return sorted(walk())


def split_of_file(path: Path) -> str:
    """All files of a top-level module are in the same split."""
    return split_of(_SALT + path.parts[0].removesuffix(".py"))


def fingerprint(what: str) -> str:
    """Of something made from all the files: from the Python version and their names and sizes."""
    folder = library()
    digest = hashlib.sha256(f"{what} {_SALT} {python()}".encode())
    for path in files(folder):
        digest.update(f"\n{path.as_posix()} {os.path.getsize(folder / path)}".encode())
    return digest.hexdigest()


def syntax_tree(source: bytes | str) -> ast.Module | None:
    """None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes and the like are not ours to complain about
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
