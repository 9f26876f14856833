"""A lock keeps others out, and ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seqlab.storage.locks import FileLock, LockedError

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from pathlib import Path
from seqlab.storage.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
child = os.fork() if sys.argv[2] == "forks" else None
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


@contextmanager
def held(path: Path, how: str = "alone") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another process that holds the lock; give it and what it prints."""
    command = [sys.executable, "-c", HOLDER, str(path), how]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as one:
        assert one.stdout is not None
        try:
            yield one, one.stdout.readline().strip()
        finally:
            one.kill()
            one.stdout.close()


def test_who_does_not_wait_hears_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(
        "process 1 on a machine with a name that is longer than any of ours could be, whatever it is called"
    )
    with held(path) as (holder, _):
        with pytest.raises(LockedError, match=f"^in use by process {holder.pid} on ") as caught:
            FileLock(path)
        assert caught.value.holder == path.read_text().strip()
    with FileLock(path):
        pass


def test_a_killed_holder_lets_go_also_where_its_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path, "forks") as (holder, child):
        with pytest.raises(LockedError):
            FileLock(path)
        holder.kill()
        holder.wait()
        try:
            os.kill(int(child), 0)
            FileLock(path).release()
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_who_waits_gets_it_when_the_holder_ends(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", list[str]()

    def wait() -> None:
        with FileLock(path, wait=True):
            order.append("taken")

    with held(path) as (holder, _):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.2)
        order.append("killed")
        holder.kill()
        waiting.join(10)
    assert order == ["killed", "taken"]


def test_threads_that_wait_are_kept_apart(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with FileLock(tmp_path / "lock", wait=True):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (inside, most) == (0, 1)


def test_a_lock_that_cannot_be_made_holds_up_nobody(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            FileLock(tmp_path / "nowhere" / "lock", wait=True)
    (tmp_path / "nowhere").mkdir()
    with FileLock(tmp_path / "nowhere" / "lock", wait=True):
        pass
