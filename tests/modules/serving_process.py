"""A real server, `python -m seqlab.serve`, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from client import Client
from typing_words import REPOSITORY


@dataclass
class ServingProcess(Client):
    """Where it listens, the process, and what it says on standard error."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def sockets(self) -> int:
        """How many are open."""
        return len(psutil.Process(self.process.pid).net_connections("tcp"))


@contextmanager
def serving_process(
    run: Path, log: Path, *words: str, port: int = 0, modules: Sequence[Path] = ()
) -> Iterator[ServingProcess]:
    """Listens when the block begins; what is left of it is killed when the block ends.

    Args:
        run: what it serves.
        log: where its standard error goes.
        words: what else is typed.
        port: 0 is any that is free.
        modules: folders whose modules it can import.
    """
    command = [sys.executable, "-m", "seqlab.serve", f"run={run}", f"port={port}", "threads=1", *words]
    path = os.pathsep.join(map(str, [*modules, REPOSITORY]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line, (line, log.read_text())
            yield ServingProcess(int(line.rpartition(":")[2]), process, log)
        finally:
            process.kill()
