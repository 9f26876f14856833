"""The default source: the docstrings of the running Python's standard library. Nothing is downloaded or imported."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqlab.data.rejects import Rejects
from seqlab.data.source import SPLITS, split_of
from seqlab.errors import InputError

# Installed packages, tests, an application, and the build's own folders are not the library's documentation.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "__pycache__"}

# Chosen among a few hundred for one thing only: in Python 3.11, 3.12 and 3.13 both held-out splits come to 10 or 11 %
# of the bytes and no single module makes up most of either. What a module is called decides where it goes, for ever.
_SALT = "seqlab 13 "

_SURROGATE = re.compile("[\ud800-\udfff]")  # a docstring about such things may contain one; UTF-8 may not

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class PyDocs:
    """A sequence is a docstring of a module, class or function, without its indentation.

    All docstrings of a top-level module are in the same split. One that occurs several times is kept where the first
    file that has it, in the order of paths, belongs: so none is in two splits.
    """

    def fingerprint(self) -> str:
        """From the Python version and the names and sizes of the files."""
        library = _library()
        digest = hashlib.sha256(f"PyDocs {_SALT} {_python()}".encode())
        for path in _files(library):
            digest.update(f"\n{path.as_posix()} {os.path.getsize(library / path)}".encode())
        return digest.hexdigest()

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        """The field is `text`. Nothing is rejected."""
        return {split: pa.table({"text": pa.array(texts, pa.string())}) for split, texts in self._extracted[0].items()}

    def facts(self) -> dict[str, Any]:
        return self._extracted[1]

    @cached_property
    def _extracted(self) -> tuple[dict[str, list[str]], dict[str, Any]]:
        splits: dict[str, list[str]] = {name: [] for name in SPLITS}
        seen: set[str] = set()
        library = _library()
        files = _files(library)
        unparsable = duplicates = 0
        for path in files:
            texts = _docstrings(library / path)
            if texts is None:
                unparsable += 1
                continue
            split = splits[split_of(_SALT + path.parts[0].removesuffix(".py"))]
            for text in texts:
                if text in seen:
                    duplicates += 1
                    continue
                seen.add(text)
                split.append(text)
        for name, texts in splits.items():
            if not texts:
                raise InputError(
                    f"no docstrings for {name} in the sources of {_python()} at {library} ({len(files)} files); "
                    "use another Python, or text of your own: data=text data.path=FILE"
                )
        return splits, {
            "python": _python(),
            "files": len(files),
            "files_not_parsed": unparsable,
            "docstrings": len(seen),
            "duplicates_removed": duplicates,
            "bytes": {name: sum(len(text.encode()) for text in texts) for name, texts in splits.items()},
        }


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _files(library: Path) -> list[Path]:
    """Its source files, relative to it, sorted."""

    def walk() -> Iterator[Path]:
        for folder, subfolders, names in os.walk(library):
            subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT and not name.startswith("config-")]
            yield from (Path(folder, name).relative_to(library) for name in names if name.endswith(".py"))

    return sorted(walk())


def _docstrings(path: Path) -> list[str] | None:
    """The docstrings of a file in the order of its syntax tree, or None where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes and the like are not ours to complain about
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return [text for text in found if text and text.strip() and not _SURROGATE.search(text)]
