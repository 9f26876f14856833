"""A server in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seqlab
from client import Client
from seqlab.server.listen import Server, listen
from seqlab.server.service import ServerBatching, ServerLimits, Service


@dataclass
class Served(Client):
    """Where it listens, and what is behind it."""

    service: Service
    server: Server
    thread: threading.Thread


@contextmanager
def serving(
    bundle: Path, batching: ServerBatching | None = None, endless: bool = False, **limits: Any
) -> Iterator[Served]:
    """Args: endless: what is written ends by its limit alone."""
    predictor: Any = seqlab.load(bundle)
    if endless:
        predictor.task.end = -1
    service = Service(predictor, batching or ServerBatching(wait_ms=1), ServerLimits(**limits), "tiny")
    listening = listen("127.0.0.1", 0)
    server = Server(service, listening)
    service.start()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    served = Served(listening.getsockname()[1], service, server, thread)
    while not server.started:
        time.sleep(0.01)
    try:
        yield served
    finally:
        service.close()
        thread.join(20)
        assert not thread.is_alive()
        if server.late is not None:
            server.late.cancel()  # it would end the tests
