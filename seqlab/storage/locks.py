"""One kind of lock for all folders that only one process at a time may write."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from pathlib import Path
from types import TracebackType

_WAITING: dict[Path, threading.Lock] = {}  # one for each file that threads of this process have waited for


class LockedError(Exception):
    """Another process holds the lock; `holder` names it."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"in use by {holder}")
        self.holder = holder


class FileLock:
    """An exclusive lock on a file, which ends with its process, however it ends: a stale one needs no clearing away.

    It is a POSIX record lock (`fcntl.lockf`), not `flock`: a forked child that outlives its parent would hold on to
    `flock`, and a run that was killed could not be resumed. It works across machines where the file system's locks do.

    A process loses a record lock when it closes any descriptor of the file, so nothing else may open the file. Nor do
    record locks keep threads of one process apart: with `wait=True` a lock of `threading` does.

    Args:
        path: the file, made where it is missing. While the lock is held, it names the process.
        wait: wait until no other process and no other waiting thread holds the lock.

    Raises:
        LockedError: `wait` is false, and another process holds it.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self._thread = _WAITING.setdefault(path.absolute(), threading.Lock()) if wait else None
        if self._thread is not None:
            self._thread.acquire()
        try:
            self._file = self._lock(path, wait)
        except BaseException:
            self._release_thread()
            raise

    @staticmethod
    def _lock(path: Path, wait: bool) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(file, 1000).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise LockedError(holder) from error
        except BaseException:
            os.close(file)
            raise
        return file

    def release(self) -> None:
        """Let go. Call it once."""
        os.close(self._file)
        self._release_thread()

    def _release_thread(self) -> None:
        if self._thread is not None:
            self._thread.release()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.release()
