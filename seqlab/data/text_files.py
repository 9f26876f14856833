"""Text of the user's own: UTF-8 files with a sequence per line, per paragraph or per file."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqlab.data.source import SPLITS, split_of
from seqlab.errors import InputError, did_you_mean

_UNITS = ("line", "paragraph", "file")
_OVERRIDES = {"train": "data.path", "validation": "data.validation", "test": "data.test"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFiles:
    """UTF-8 text files. Blank lines are no sequences; a byte-order mark and the CR of CRLF are no text.

    path        a file, or a pattern such as `books/*.txt` (`**` descends), read in the order of names
    validation  the same for this split; without it, 10 % of the sequences under `path`, chosen by a hash of their
                text: equal sequences stay together, so that none gets into two splits
    test        likewise
    unit        what a sequence is: "line", "paragraph" (lines up to a blank one) or "file"

    Raises:
        InputError: the unit is none of these; on reading, a file is missing, empty or not UTF-8, or a split is empty.
    """

    path: str
    validation: str | None = None
    test: str | None = None
    unit: str = "line"

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise InputError(f"data.unit={self.unit} is not {' or '.join(_UNITS)}{did_you_mean(self.unit, _UNITS)}")

    def fingerprint(self) -> str:
        """From the bytes of the files: a copy elsewhere is the same text, an edit that keeps the size is not."""
        digest = hashlib.sha256(f"TextFiles {self.unit}".encode())
        for split, files in self._files().items():
            digest.update(f"\n{split}".encode())
            for file in files:
                digest.update(hashlib.sha256(_content(file, split)).digest())
        return digest.hexdigest()

    def read(self) -> dict[str, list[str]]:
        given = {
            split: [text for file in files for text in _sequences(_text(file, split), self.unit)]
            for split, files in self._files().items()
        }
        splits: dict[str, list[str]] = {split: given.get(split, []) for split in SPLITS} | {"train": []}
        for text in given["train"]:
            split = split_of(text)
            splits["train" if split in given else split].append(text)
        for split, texts in splits.items():
            if not texts:
                raise InputError(
                    f"nothing for {split}: data.path={self.path} has {len(given['train'])} sequences (one per "
                    f"{self.unit}), of which a hash sends 10 % each to validation and test where these are not given; "
                    f"give {_OVERRIDES[split]}=FILE with more text, or choose another data.unit="
                )
        return splits

    def facts(self) -> dict[str, Any]:
        return {"unit": self.unit, "files": {split: len(files) for split, files in self._files().items()}}

    def _files(self) -> dict[str, list[Path]]:
        """The files of each split that was given any."""
        patterns = {"train": self.path, "validation": self.validation, "test": self.test}
        return {split: _matching(pattern, split) for split, pattern in patterns.items() if pattern is not None}


def _matching(pattern: str, split: str) -> list[Path]:
    """A file whose very name this is goes first: names may contain brackets."""
    pattern = os.path.expanduser(pattern)
    names = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
    files = [Path(name) for name in names if os.path.isfile(name)]
    if not files:
        found = "is a folder" if os.path.isdir(pattern) else "matches no file"
        raise InputError(f"{_OVERRIDES[split]}={pattern} {found} (seen from {os.getcwd()}); give a file, or DIR/*.txt")
    return files


def _content(file: Path, split: str) -> bytes:
    try:
        content = file.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error}; see {_OVERRIDES[split]}=") from error
    if not content.strip():
        raise InputError(f"{file} is empty; see {_OVERRIDES[split]}=")
    return content


def _text(file: Path, split: str) -> str:
    content = _content(file, split)
    try:
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}: {error.reason}); convert the "
            f"file, for example with iconv -t UTF-8, or choose another {_OVERRIDES[split]}="
        ) from None


def _sequences(text: str, unit: str) -> list[str]:
    """Lines end in "\\n" only: other characters that Python's splitlines splits at are part of a text."""
    if unit == "line":
        parts = text.split("\n")
    elif unit == "paragraph":
        parts = re.split(r"\n(?:[^\S\n]*\n)+", text)
    else:
        parts = [text]
    return [part.strip("\n") for part in parts if part.strip()]
