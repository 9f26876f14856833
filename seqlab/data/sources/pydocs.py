"""The default source: the docstrings of the running Python's standard library. Nothing is downloaded or imported."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqlab.data.sources import stdlib
from seqlab.data.sources.generated.generated_source import GeneratedSource
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError, counted

_SURROGATE = re.compile("[\ud800-\udfff]")  # a docstring about such things may contain one; UTF-8 may not

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class PyDocs(GeneratedSource):
    """Field: text, a docstring of a module, class or function, without its indentation.

    All docstrings of a top-level module are in the same split. One that occurs several times is kept where the first
    file that has it, in the order of paths, belongs: so none is in two splits.
    """

    def fingerprint(self) -> str:
        """Made of the Python version and the names and sizes of the files."""
        return stdlib.fingerprint("PyDocs")

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        splits: dict[str, list[str]] = {name: [] for name in SPLITS}
        seen: set[str] = set()
        library = stdlib.library()
        files = stdlib.files(library)
        unparsable = duplicates = 0
        for path in files:
            texts = _docstrings(library / path)
            if texts is None:
                unparsable += 1
                continue
            split = splits[stdlib.split_of_file(path)]
            for text in texts:
                if text in seen:
                    duplicates += 1
                    continue
                seen.add(text)
                split.append(text)
        for name, texts in splits.items():
            if not texts:
                raise InputError(
                    f"no docstrings for {name} in the sources of {stdlib.python()} at {library} "
                    f"({counted(len(files), 'file')}); use another Python, or text of your own: data=text "
                    "data.path=FILE"
                )
        tables = {split: pa.table({"text": pa.array(texts, pa.string())}) for split, texts in splits.items()}
        return tables, {
            "python": stdlib.python(),
            "files": len(files),
            "files_not_parsed": unparsable,
            "docstrings": len(seen),
            "duplicates_removed": duplicates,
            "bytes": {name: sum(len(text.encode()) for text in texts) for name, texts in splits.items()},
        }


def _docstrings(path: Path) -> list[str] | None:
    """The docstrings of a file in the order of its syntax tree, or None where it does not parse."""
    tree = stdlib.syntax_tree(path.read_bytes())
    if tree is None:
        return None
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return [text for text in found if text and text.strip() and not _SURROGATE.search(text)]
