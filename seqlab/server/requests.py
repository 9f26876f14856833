"""What a request brings, and the wait for its answers; what is wrong with it is a `RefusedError`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import isclass
from typing import Any, TypeVar, get_args

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect

from seqlab.inference.predictor import Request
from seqlab.server.queue import ClosedError, FailedError, FullError, Job
from seqlab.server.service import Service, TooMuchError
from seqlab.storage.json import dump_json

LATER = {"retry-after": "1"}
T = TypeVar("T")


class RefusedError(Exception):
    """A request that gets no answer, and why. The message quotes nothing of it; `param` is the field to blame."""

    def __init__(self, status: int, message: str, param: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, headers


def error_content(error: RefusedError, path: str = "") -> dict[str, Any]:
    """What a client is told, in JSON."""
    described: dict[str, Any] = {"message": error.message, "status": error.status}
    if path.startswith("/v1/"):  # what OpenAI's clients look for
        kind = "invalid_request_error" if error.status < 500 else "server_error"
        described |= {"type": kind, "param": error.param, "code": None}
    return {"error": described}


# What pydantic's kinds of errors expected, in JSON's words; what is in braces is in the error's context.
EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list of texts",
    "literal_error": "{expected}",
    "missing": "a value, and there is none",
    "model_type": "an object",
    "none_required": "null",
    "string_type": "a text",
}


class JsonBody(BaseModel):
    """What a request may set. Numbers are bounded here, so that messages about them stay short."""

    model_config = ConfigDict(extra="forbid", strict=True)


# ------------------------------------------------------------------ what comes in


async def content_of(request: HttpRequest, limit: int) -> Any:
    """The JSON of a body."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "expected content-type: application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedError(415, "content-encoding: expected a body as it is, not compressed")
    too_large = RefusedError(413, f"the body has more than {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect as error:
        raise RefusedError(499, "the client has left") from error
    try:
        content = json.loads(bytes(body).decode(), parse_constant=no_number)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can be read, and not be written
    except UnicodeError as error:
        raise RefusedError(400, "the body is not valid Unicode") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the body is not JSON") from error
    return content


def no_number(name: str) -> None:
    """NaN and infinity are no JSON."""
    raise ValueError(name)


def checked(kind: type[Any], content: Any) -> Any:
    """The settings in a request."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        places = [place_of(kind, one["loc"]) for one in found]
        param, known = places[0]
        where = param or "the body"
        if found[0]["type"] == "extra_forbidden":  # whose name is the asker's own
            message = f"an unknown setting; there are {', '.join(known.model_fields)}"
            raise RefusedError(422, f"{param}: {message}" if param else message, param) from error
        reasons = [expected(one) for one, place in zip(found, places, strict=True) if place == places[0]]
        raise RefusedError(422, f"{where}: expected {', or '.join(dict.fromkeys(reasons))}", param) from error


def place_of(kind: type[Any], location: Sequence[int | str]) -> tuple[str | None, type[Any]]:
    """The dotted name of the setting at a location that pydantic tells, and the settings that it stands among: nothing
    of what the asker named. None: all of them."""
    names = list[str]()
    for name in location:
        if name not in kind.model_fields:
            break
        names.append(str(name))
        annotation = kind.model_fields[name].annotation
        inner = [one for one in (annotation, *get_args(annotation)) if isclass(one) and issubclass(one, JsonBody)]
        if not inner:
            break
        kind = inner[0]
    return ".".join(names) or None, kind


def expected(error: Mapping[str, Any]) -> str:
    """What would have been right, in JSON's words."""
    if error["type"] == "string_type" and isinstance(error["loc"][-1], int):
        return "a list of texts"
    context = {name: in_json(value) for name, value in error.get("ctx", {}).items()}
    return EXPECTED.get(error["type"], "another kind").format_map(context)


def in_json(value: Any) -> str:
    """1.0 is 1; a literal is told by pydantic as Python writes it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return {"False": "false", "True": "true", "None": "null"}.get(str(value), str(value))


def require_some(items: int, limit: int, param: str | None = None) -> None:
    if items > limit:
        raise RefusedError(413, f"more than {limit} items in a request", param)
    if items == 0:
        raise RefusedError(422, "no item: expected at least one", param)


async def read_items(service: Service, items: Sequence[Mapping[str, Any]], param: str | None = None) -> list[Request]:
    """The items, tokenised beside the loop. `param` is the field they came in."""
    try:
        return await asyncio.to_thread(service.read, items)
    except TooMuchError as error:
        raise RefusedError(413, str(error), param) from error
    except ValueError as error:
        raise RefusedError(422, str(error), param) from error


def decoding_of(service: Service, given: Mapping[str, Any]) -> Any:
    """How to write, within the limits."""
    limits = service.limits
    for name, limit in (("max_tokens", limits.new_tokens), ("width", limits.width)):
        if given.get(name) is not None and given[name] > limit:
            raise RefusedError(413, f"{name}: at most {limit}", name)
    try:
        return service.how(given)
    except ValueError as error:
        raise RefusedError(422, str(error)) from error


# ------------------------------------------------------------------ until it is answered


@contextmanager
def room(service: Service, items: int) -> Iterator[Callable[[Sequence[Job]], None]]:
    """Places in the queue, asked for before anything is tokenised. What it gives puts jobs there."""
    if not service.thread.is_alive():
        raise RefusedError(503, "the model has stopped")
    try:
        with service.queue.room(items) as put:
            yield put
    except FullError as error:
        raise RefusedError(429, "too many requests wait; come back later", **LATER) from error
    except ClosedError as error:
        raise RefusedError(503, "shutting down") from error


async def answers(jobs: Sequence[Job], request: HttpRequest) -> list[Any]:
    """The answers to all of these; nobody's any more when the client leaves, or at the deadline."""
    try:
        with refuse_failed_jobs():
            return await unless_left(request, all_of(jobs), max(0.0, jobs[0].deadline - time.monotonic()))
    finally:
        for job in jobs:
            job.abandon()  # those that are answered do not mind


async def all_of(jobs: Sequence[Job]) -> list[Any]:
    return list(await asyncio.gather(*(asyncio.wrap_future(job.answer) for job in jobs)))


@contextmanager
def refuse_failed_jobs() -> Iterator[None]:
    """Refuse a request whose job is late (503) or has failed (500)."""
    try:
        yield
    except TimeoutError as error:
        raise RefusedError(503, "no answer before the deadline", **LATER) from error
    except FailedError as error:
        raise RefusedError(500, "the model failed") from error


async def unless_left(request: HttpRequest, awaited: Awaitable[T], seconds: float | None = None) -> T:
    """What is awaited.

    Raises:
        RefusedError: the client has left before.
        TimeoutError: so many seconds have passed; None: never. In both cases what was awaited has been cancelled.
    """
    work, gone = asyncio.ensure_future(awaited), asyncio.ensure_future(leaves(request))
    try:
        await asyncio.wait((work, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise RefusedError(499, "the client has left") if gone.done() else TimeoutError
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def leaves(request: HttpRequest) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_json(content: Any) -> Response:
    """NaN is null there."""
    return Response(dump_json(content, ensure_ascii=False), media_type="application/json")
