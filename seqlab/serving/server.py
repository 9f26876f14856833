"""The process of a server: it listens, and on SIGTERM answers what it has accepted, and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from functools import partial
from types import FrameType

import uvicorn

from seqlab.errors import InputError
from seqlab.serving.http import application
from seqlab.serving.protocol import FirmProtocol
from seqlab.serving.service import Service

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, which would refuse connections at once on SIGTERM: whoever asks /ready or /live is still told.

    From the first signal on nothing new is accepted. When all that was is answered, the process ends, with exit code
    0; after `drain_s` it ends anyway, with 1. A second signal ends it at once.
    """

    def __init__(self, service: Service) -> None:
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                application(service),
                http=partial(FirmProtocol, limits.read_s),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                access_log=False,  # paths are what clients type
                log_config=None,
                limit_concurrency=limits.connections,
                timeout_keep_alive=max(1, round(limits.read_s)),
                server_header=False,
            )
        )
        self.service = service
        self.late: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal, or another."""
        if self.service.queue.closed:
            os._exit(128 + sig)
        self.service.close()
        self.late = threading.Timer(self.service.limits.drain_s, os._exit, (1,))  # the loop may be stuck too
        self.late.daemon = True
        self.late.start()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until a signal has been heeded."""
        await super().serve(sockets)
        if self.late is not None:
            self.late.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From now on it answers, and heeds signals."""
        await super().startup(sockets)
        for listening in sockets or []:
            host, port = listening.getsockname()[:2]
            at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"serving {self.service.name} ({self.service.task}) at {at}", flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        self.should_exit |= self.service.queue.closed and not self.service.queue.unanswered
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        InputError: there is no such address here, or it is in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"host={host} port={port}: {error}; choose another") from error


def serve(service: Service, listening: socket.socket) -> None:
    """Says where it listens, and answers until a signal ends it."""
    service.start()
    asyncio.run(Server(service).serve([listening]))
