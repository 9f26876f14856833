"""The process of a server: it listens, and on SIGTERM answers what it has accepted, and ends."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import threading
from functools import partial
from types import FrameType

import uvicorn

from seqlab.errors import InputError
from seqlab.server.app import application
from seqlab.server.guard import HEADER
from seqlab.server.protocol import FirmProtocol
from seqlab.server.service import Service

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn, which would refuse connections at once on SIGTERM: whoever asks /ready or /live is still told.

    From the first signal on nothing new is accepted. When all that was is answered, the process ends, with exit code
    0; after `drain_s` it ends anyway, with 1. A second signal ends it at once. It also ends, with 1, when the model's
    thread has ended: then nobody answers any more.

    Args:
        service: is started.
        listening: where clients come from.
    """

    def __init__(self, service: Service, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                application(service, hosts_of(listening)),
                http=partial(FirmProtocol, service),  # type: ignore[arg-type]
                h11_max_incomplete_event_size=HEADER,
                ws="none",
                lifespan="off",
                access_log=False,  # paths are what clients type
                log_config=None,
                proxy_headers=False,
                timeout_keep_alive=max(1, round(service.limits.read_s)),
                server_header=False,
            )
        )
        self.service, self.listening = service, listening
        self.late: threading.Timer | None = None
        self.failed = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal, or another."""
        if self.service.queue.closed:
            os._exit(128 + sig)
        self.end()

    def end(self) -> None:
        """Nothing new is accepted from now on."""
        self.service.close()
        # The loop may be stuck too, or when it has ended a thread for which Python waits; so nothing cancels it.
        self.late = threading.Timer(self.service.limits.drain_s, os._exit, (1,))
        self.late.daemon = True
        self.late.start()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until a signal has been heeded."""
        await super().serve([self.listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From now on it answers, and heeds signals."""
        await super().startup(sockets)
        host, port = self.listening.getsockname()[:2]
        print(f"serving {self.service.name} ({self.service.kind}) at http://{in_url(host)}:{port}", flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        queue = self.service.queue
        if not queue.closed and not self.service.thread.is_alive():
            logger.critical("the model's thread has ended, and so does this process")
            self.failed = True
            self.end()
        self.should_exit |= self.failed or (queue.closed and not queue.unanswered)
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        InputError: there is no such address here, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            free = "port=0 is any that is free"
            raise InputError(f"port={port} of {host} is taken by another program: set another; {free}") from error
        raise InputError(f"host={host} port={port}: {error}; choose another") from error


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def hosts_of(listening: socket.socket) -> tuple[str, ...]:
    """How a server for this machine alone may be named; of any other: nothing.

    Else a page from elsewhere could ask it: in a browser that is told that the page's own host is 127.0.0.1 now (DNS
    rebinding) it may read the answers.
    """
    host = listening.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        return ()
    return tuple(dict.fromkeys((in_url(host), "127.0.0.1", "localhost", "[::1]")))


def serve(service: Service, listening: socket.socket) -> None:
    """Says where it listens, and answers until a signal ends it; `limits.drain_s` later the process ends anyway.

    Raises:
        SystemExit: the model's thread has ended by itself.
    """
    service.start()
    server = Server(service, listening)
    asyncio.run(server.serve())
    if server.failed:
        raise SystemExit(1)
