"""HTTP/1.1 of uvicorn, made firm: a client has so many seconds to send a request, and hears 431 of a giant header."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class FirmProtocol(H11Protocol):
    """A connection.

    uvicorn closes one that idles after an answer (`timeout_keep_alive`); but one that idles from its beginning, or
    sends a byte now and then, it would keep for ever. Here, whoever has begun has `read_s` seconds to end.
    """

    def __init__(self, read_s: float, **options: Any) -> None:
        super().__init__(**options)
        self.read_s = read_s
        self.reading: asyncio.TimerHandle | None = None
        self.refused = False  # what is still sent of the request is let pass: else its answer would be lost in a reset

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.reading = self.loop.call_later(self.read_s, self.give_up)

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)
        if self.refused or self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.reading = self.reading or self.loop.call_later(self.read_s, self.give_up)
        elif self.reading is not None:
            self.reading.cancel()
            self.reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.reading is not None:
            self.reading.cancel()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """The request was not sent in time."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """h11 knows whether it was the size of the header."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        text = {431: b"The header is too large.", 413: b"The request is too large."}.get(status, b"This is no HTTP.")
        self.refused = True
        with suppress(h11.LocalProtocolError):  # an answer is on its way
            for event in (
                h11.Response(status_code=status, headers=[("connection", "close"), ("content-type", "text/plain")]),
                h11.Data(data=text),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
