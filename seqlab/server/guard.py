"""What stands around all routes: who may ask at all, what is counted, and how a refusal or a defect is told."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from seqlab.server.queue import where
from seqlab.server.requests import LATER, RefusedError, error_content
from seqlab.server.service import Service

logger = logging.getLogger(__name__)

HEADER = 65536  # bytes: the request's line, and names and values of its fields
FIELDS = 100
HEALTH = ("/live", "/ready", "/metrics")  # answered when nothing else is
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


async def refusal(request: HttpRequest, error: Exception) -> Response:
    """What is told instead of an answer."""
    if isinstance(error, HTTPException):  # of the router
        messages = {404: "there is no such route", 405: "this route takes another method"}
        error = RefusedError(error.status_code, messages.get(error.status_code, "refused"), **dict(error.headers or {}))
    elif not isinstance(error, RefusedError):
        error = RefusedError(500, "a defect of ours")
    return JSONResponse(error_content(error, request.scope["path"]), error.status, error.headers)


class Guard:
    """Around all routes: counts requests; and an error of ours is told by its place alone, in log and answer.

    Args:
        app: the routes, which tell their errors by `refusal`.
        service: whose metrics and limits these are.
        hosts: how the server may be named by the field Host; empty: in any way.
    """

    def __init__(self, app: FastAPI, service: Service, hosts: Collection[str] = ()) -> None:
        self.app, self.service, self.hosts = app, service, hosts
        self.routes = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # the client has left, unless there is an answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            self.require_fitting(scope)
            await self.app(scope, receive, noted)
        except RefusedError as error:
            await (await refusal(HttpRequest(scope), error))(scope, receive, noted)
        except Exception as error:  # is answered already
            logger.error("%s", where(error))
        finally:
            # A stream may fail, and a request break off, when another status has been told, or none.
            status = scope["state"].get("status", status)
            self.service.metrics.request(self.route(scope), status, time.monotonic() - begin)

    def require_fitting(self, scope: Scope) -> None:
        """Whether the request may be read.

        Raises:
            RefusedError: not this one.
        """
        sizes = [len(name) + len(value) for name, value in scope["headers"]]
        if len(sizes) > FIELDS or len(scope["raw_path"]) + len(scope["query_string"]) + sum(sizes) > HEADER:
            raise RefusedError(431, f"the header has more than {HEADER} bytes, or {FIELDS} fields")
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        if self.hosts and host and re.sub(r":\d*$", "", host) not in self.hosts:
            raise RefusedError(421, f"this server is for its own machine alone: ask it as {' or '.join(self.hosts)}")
        if scope["state"].get("spare") and scope["path"] not in HEALTH:
            raise RefusedError(503, "too many connections; come back later", **LATER)

    def route(self, scope: Scope) -> str:
        """Which route it was, never what the client typed."""
        if scope["path"] in self.routes:
            return str(scope["path"])
        return getattr(scope.get("route"), "path", "other")
