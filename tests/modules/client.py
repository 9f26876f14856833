"""A client of a server on this machine; it can misbehave."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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
class Client:
    """Asks whoever listens on that port, by a connection for each request."""

    port: int

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
