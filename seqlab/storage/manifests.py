"""SHA-256 manifests: which files a folder holds, and that each byte of them is the one that was written.

A manifest lists the SHA-256 of each file by its path in the folder. Checkpoints and prepared corpora keep it in
manifest.json, with sizes and a digest of itself; bundles and exports keep it in model.json and export.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqlab.storage.files import open_plain, read_plain

FILE = "manifest.json"


class DamagedError(ValueError):
    """A file is missing, or is not the one that was written. The message names the file and the reason."""


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder and its subfolders, by path. Large files are read in pieces."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest_of(path) for path in files}


def write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Write manifest.json: size and SHA-256 of these files, all of which are there, and a digest of this list."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256} for name, sha256 in digests.items()}
    (folder / FILE).write_bytes(_spelled(files))


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the digests that manifest.json lists. Raise `DamagedError` where a byte of it has changed."""
    content = _read(folder, FILE)
    try:
        files = json.loads(content)["files"]
        if content == _spelled(files):
            return {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise DamagedError(f"{FILE}: it does not agree with its own digest")


def read_verified(folder: Path, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Return the content of each listed file. It is read once, so that what is verified is what is used.

    Raises:
        DamagedError: a file is missing, is no plain file, or is not the one that was written.
    """
    content = {}
    for name, expected in digests.items():
        content[name] = _read(folder, name)
        _require_same(name, digest(content[name]), expected)
    return content


def verify(folder: Path, digests: Mapping[str, str]) -> None:
    """Verify files too large to be held in memory: about a second per gigabyte or two. Raise as `read_verified`."""
    for name, expected in digests.items():
        try:
            found = _digest_of(folder / name)
        except OSError as error:
            raise DamagedError(f"{name}: {error.strerror}") from error
        _require_same(name, found, expected)


def _digest_of(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_plain(folder / name)
    except OSError as error:
        raise DamagedError(f"{name}: {error.strerror}") from error


def _require_same(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise DamagedError(f"{name}: not the file that was written, its SHA-256 is {found[:12]}, not {expected[:12]}")


def _spelled(files: Mapping[str, Any]) -> bytes:
    """Return the only spelling of a manifest, so that a reader can compare each byte of it."""
    own = digest(json.dumps(files, sort_keys=True).encode())
    return json.dumps({"files": files, "digest": own}, indent=1, sort_keys=True).encode()
