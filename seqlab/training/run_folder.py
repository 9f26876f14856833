"""The folder of one run: who may write to it, what it is a run of, and how it ended.

    config.yaml      the resolved configuration
    run.json         the marker of a run folder: metadata, times, status (running | success | failed | interrupted)
    summary.json     final figures
    error.txt        the traceback, where the run failed
    .lock            held by the process that writes here

This module loads nothing heavy: a folder that cannot be used is refused before any data or model is touched.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from seqlab.errors import FolderInUseError, InputError, StoppedError
from seqlab.storage.files import replace_file
from seqlab.storage.json import dump_json
from seqlab.storage.locks import FileLock, LockedError

FORMAT_VERSION = 2

logger = logging.getLogger(__name__)


class RunFolder:
    """An output folder, locked while this object is open.

    Made by `create` or `reopen`, which only take the lock; `begin` writes that a run is under way. As a context manager
    it writes the status that fits how the block ended. Where that was before `begin`, it leaves things as they were.
    """

    def __init__(self, path: Path, lock: FileLock, metadata: dict[str, Any], made: Iterable[Path] = ()) -> None:
        self.path, self.made = path, tuple(made)
        self.metadata = metadata
        self.begun = False
        self._lock = lock

    @classmethod
    def unique(cls, path: Path | str) -> RunFolder:
        """A new run's folder, `path`, or `path-2`, `path-3`, ...: runs that start in the same second do not meet."""
        path = Path(path)
        try:
            made = _missing(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            for candidate in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 10_000))):
                try:
                    candidate.mkdir(parents=True)  # a run that was refused may have taken the parent away
                except FileExistsError:
                    continue
                return cls.create(candidate, [candidate, *(folder for folder in made if folder != path)])
            raise OSError("there are 10000 runs of this name")
        except OSError as error:
            raise _unwritable(path, error) from error

    @classmethod
    def create(cls, path: Path | str, made: Iterable[Path] = ()) -> RunFolder:
        """A folder for a new run, empty or not there yet.

        Args:
            made: folders that were made for it already, which go with it where no run begins; the innermost first.

        Raises:
            InputError: the folder cannot be written, or it holds a run or anything else already.
            FolderInUseError: another process is writing there.
        """
        path = Path(path)
        try:
            made = [*made] or _missing(path)
            path.mkdir(parents=True, exist_ok=True)
            _require_ours_or_empty(path, ".lock")  # before anything is touched
            lock = _take_lock(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            _require_ours_or_empty(path, "run.json")
            if (path / "run.json").exists():
                status = read_metadata(path).get("status")
                ended = "a finished run" if status == "success" else f"a run that has not finished (status {status})"
                raise InputError(
                    f"output_dir={path} holds {ended}; continue it with resume={path}, or choose another output_dir"
                )
            return cls(path, lock, {}, made)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def reopen(cls, path: Path | str) -> RunFolder:
        """The run in a folder, to be continued.

        Raises:
            InputError: there is no run, or one of a later format; or the folder cannot be written.
            FolderInUseError: another process is writing there.
        """
        path = Path(path)
        if not (path / "run.json").exists():
            raise InputError(f"resume={path}: no run there (a run folder has a run.json)")
        try:
            lock = _take_lock(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            return cls(path, lock, read_metadata(path))
        except BaseException:
            lock.release()
            raise

    def begin(self, config: str, metadata: dict[str, Any]) -> None:
        """Training starts, or goes on.

        Args:
            config: text of config.yaml; a run that goes on keeps its own.
            metadata: what run.json says besides status and times; a run that goes on keeps its own.
        """
        if self.metadata:
            news: dict[str, Any] = {"resumed": [*self.metadata.get("resumed", []), _now()]}
            (self.path / "error.txt").unlink(missing_ok=True)
        else:
            news = {"format_version": FORMAT_VERSION, **metadata, "started": _now()}
            replace_file(self.path / "config.yaml", config.encode())
        self.record(**news, status="running", ended=None)
        self.begun = True

    @property
    def config(self) -> str:
        """Text of config.yaml."""
        return (self.path / "config.yaml").read_text()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def record(self, **metadata: Any) -> None:
        """Adds metadata to run.json, whole or not at all."""
        self.metadata |= metadata
        replace_file(self.path / "run.json", _json(self.metadata))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json."""
        replace_file(self.path / "summary.json", _json(summary))

    def _leave_no_trace(self) -> None:
        """Folders made for a run that never began go again, unless they hold something."""
        if not self.metadata:
            (self.path / ".lock").unlink(missing_ok=True)
            with suppress(OSError):
                for folder in self.made:
                    folder.rmdir()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if not self.begun:
                self._leave_no_trace()
                return
            if (status := status_of(error)) == "failed":
                replace_file(self.path / "error.txt", "".join(traceback.format_exception(error)).encode())
            self.record(status=status, ended=_now())
        except OSError as failure:
            if error is None:
                raise
            logger.warning("run.json could not be written: %s", failure)  # what ended the run says more
        finally:
            self._lock.release()


def status_of(error: BaseException | None) -> str:
    """How a run ended that raised this."""
    if error is None:
        return "success"
    return "interrupted" if isinstance(error, StoppedError | KeyboardInterrupt) else "failed"


def _take_lock(path: Path) -> FileLock:
    """Lock a run folder. Raise `FolderInUseError` if another process is writing there."""
    try:
        return FileLock(path / ".lock")
    except LockedError as error:
        raise FolderInUseError(f"{path} is {error}; wait for it, or choose another output_dir") from error


def _missing(path: Path) -> list[Path]:
    """Of a path and the folders around it those that are not there yet, the innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _require_ours_or_empty(path: Path, marker: str) -> None:
    found = sorted(entry.name for entry in path.iterdir())
    if found and found != [".lock"] and marker not in found:
        raise InputError(
            f"output_dir={path} is not empty and holds no run (it has {', '.join(found[:3])}"
            f"{', ...' if len(found) > 3 else ''}); choose an empty or new folder"
        )


def read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((path / "run.json").read_bytes())
        version = metadata["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / 'run.json'} is damaged ({error}); choose another output_dir") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} is a run of format {version!r}, and this seqlab reads format {FORMAT_VERSION}: continue it with "
            "the seqlab that began it, or begin a new run"
        )
    return dict(metadata)


def _json(metadata: dict[str, Any]) -> bytes:
    return (dump_json(metadata, indent=2) + "\n").encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"output_dir={path} cannot be written: {error.strerror or error}; choose another output_dir")
