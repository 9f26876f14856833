"""Files: which ones a setting means, and their lines."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from seqlab.errors import InputError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_MIB = 2**20


class Line(NamedTuple):
    """A line of a file.

    number   1 for the first
    content  without its end, "\\n" or "\\r\\n"
    ended    whether it has one: the last line of a file that was cut off does not
    """

    number: int
    content: bytes
    ended: bool


def matching(pattern: str, setting: str) -> list[Path]:
    """The files of a pattern such as `books/*.txt` (`**` descends), in the order of names.

    A file whose very name the pattern is goes first: names may contain brackets.

    Raises:
        InputError: there are none; `setting` is the override that it names.
    """
    pattern = os.path.expanduser(pattern)
    names = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
    files = [Path(name) for name in names if os.path.isfile(name)]
    if not files:
        found = "is a folder" if os.path.isdir(pattern) else "matches no file"
        message = f"{setting}={pattern} {found} (seen from {os.getcwd()}); give a file, or a pattern like DIR/*"
        raise InputError(f"{message}{_of_an_experiment(pattern)}")
    return files


def _of_an_experiment(pattern: str) -> str:
    """Where such a file comes from, if it looks like one that conf/experiment names."""
    folder = os.path.join(os.environ.get("SEQLAB_DATA") or "data", "")
    if not pattern.startswith(folder) or os.sep not in pattern.removeprefix(folder):
        return ""
    advice = "python scripts/reproduce.py --data RAW --only prepares them from what their authors publish"
    return f". The data of an experiment are looked for where SEQLAB_DATA=FOLDER says; {advice}"


def lines(file: Path) -> Iterator[Line]:
    """The lines of a file, which may be compressed by gzip, whatever it is called.

    They end in "\\n" only: other characters that Python's splitlines splits at are part of a text. A byte-order mark
    and the CR of CRLF are no text.

    Raises:
        InputError: the file cannot be read, or its compression is damaged.
    """
    with _told(file), file.open("rb") as plain:
        compressed = plain.read(len(_GZIP)) == _GZIP
        plain.seek(0)
        stream: Iterable[bytes] = gzip.GzipFile(fileobj=plain) if compressed else plain
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            ended = line.endswith(b"\n")
            yield Line(number, line.removesuffix(b"\n").removesuffix(b"\r") if ended else line, ended)


def fingerprint(settings: str, files: Mapping[str, Sequence[Path]]) -> str:
    """Of the bytes of the files of each split: a copy elsewhere is the same, an edit that keeps the size is not.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256(settings.encode())
    for split, group in files.items():
        digest.update(f"\n{split}".encode())
        for file in group:
            with _told(file), file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def glance(file: Path) -> bytes:
    """SHA-256 of the size of a file, its first and its last MiB: for one that is too large to be read for it.

    Raises:
        InputError: it cannot be read.
    """
    with _told(file), file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(0, size - _MIB)):
            stream.seek(start)
            digest.update(stream.read(_MIB))
        return digest.digest()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file} is damaged: {error}; it may have been cut off: get it anew, or gzip -t it") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
