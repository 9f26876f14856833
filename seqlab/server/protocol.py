"""HTTP/1.1 of uvicorn, made firm: a client has so many seconds to send a request, and to take its answer."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from seqlab.server.requests import RefusedError, error_content
from seqlab.server.service import Service

RESERVE = (
    16  # connections beyond the limit, which hear that it is reached, and how the server is (seqlab/server/guard.py)
)


class FirmProtocol(H11Protocol):
    """A connection.

    uvicorn closes one that idles after an answer (`timeout_keep_alive`); but one that idles from its beginning, or
    sends a byte now and then, or does not read, it would keep for ever. Here, whoever has begun to send a request has
    `limits.read_s` seconds to end, and what is written has to be taken within `limits.write_s`.

    What the routes cannot know stands in the state of a request: `spare`, that there are too many connections, and
    `status`, where it is refused here while a route reads it.
    """

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(**options)
        self.limits, self.metrics = service.limits, service.metrics
        self.reading: asyncio.TimerHandle | None = None
        self.writing: asyncio.TimerHandle | None = None
        self.spare = False
        self.refused = False  # what is still sent of the request is let pass: else its answer would be lost in a reset

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` as soon as the client takes less than is written
        self.spare = len(self.connections) > self.limits.connections
        if len(self.connections) > self.limits.connections + RESERVE:
            transport.abort()
        self.watch()

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)

    def handle_events(self) -> None:
        """Of what has come, or had come while an earlier request was answered."""
        self.spare = self.spare and len(self.connections) > self.limits.connections
        self.app_state = {"spare": self.spare}
        super().handle_events()
        self.watch()

    def watch(self) -> None:
        """Time runs while the client owes a part of a request."""
        state, kept = self.conn.their_state, self.timeout_keep_alive_task is not None
        if self.refused or state is h11.SEND_BODY or (state is h11.IDLE and not kept):
            self.reading = self.reading or self.loop.call_later(self.limits.read_s, self.give_up)
        elif self.reading is not None:
            self.reading.cancel()
            self.reading = None

    def give_up(self) -> None:
        """The request was not sent in time."""
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if self.refused or not begun:
            self.transport.abort()
        else:
            self.refuse(RefusedError(408, f"the request was not sent within {self.limits.read_s:g} s"))
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.writing is not None:
            self.writing.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.reading, self.writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends."""
        if self.refused or self.conn.our_state is h11.ERROR:  # nothing more can be said
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What has come is no HTTP. h11 knows whether it was the size of the header."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        text = {431: "the header is too large", 413: "the request is too large"}.get(status, "this is no HTTP")
        self.refuse(RefusedError(status, text))
        self.transport.write_eof()

    def refuse(self, error: RefusedError) -> None:
        """Answers in place of the routes, unless they have begun to; no more is read."""
        self.refused = True
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if self.cycle is not None and not self.cycle.response_complete:  # a route waits for the rest
            self.scope["state"]["status"] = error.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self.metrics.request("other", error.status, 0.0)
        body = json.dumps(error_content(error)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
