"""A server in a thread of the test's own process, and a client that can misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seqlab
from seqlab.serving.server import Server, listen
from seqlab.serving.service import Batching, Limits, Service

JSON = "content-type: application/json"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """Where it listens, and what is behind it."""

    port: int
    service: Service
    server: Server
    thread: threading.Thread

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, data: bytes) -> Reply | None:
        """Sends bytes as they are; None where the connection is closed without an answer."""
        with self.connect() as connection:
            with suppress(OSError):  # it may have heard enough
                connection.sendall(data)
            return reply(connection)

    def ask(self, method: str, path: str, body: bytes | str = b"", *headers: str) -> Reply:
        body = body.encode() if isinstance(body, str) else body
        lines = [f"{method} {path} HTTP/1.1", f"host: localhost:{self.port}", f"content-length: {len(body)}", *headers]
        found = self.raw("\r\n".join([*lines, "", ""]).encode() + body)
        assert found is not None
        return found

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def post(self, path: str, content: Any) -> Reply:
        return self.ask("POST", path, json.dumps(content), JSON)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def reply(connection: socket.socket) -> Reply | None:
    """Reads one answer."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        chunked = headers.get("transfer-encoding") == "chunked"
        while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < int(headers.get("content-length", 1 << 30)):
            if not (more := connection.recv(65536)):
                break
            body += more
    except OSError:
        return None
    if chunked:
        body = b"".join(body.split(b"\r\n")[1::2])
    return Reply(int(first.split()[1]), headers, body)


@contextmanager
def serving(bundle: Path, batching: Batching | None = None, endless: bool = False, **limits: Any) -> Iterator[Served]:
    """Args: endless: what is written ends by its limit alone."""
    predictor: Any = seqlab.load(bundle)
    if endless:
        predictor.task.end = -1
    service = Service(predictor, batching or Batching(wait_ms=1), Limits(**limits), "tiny")
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
