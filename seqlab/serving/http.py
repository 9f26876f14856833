"""The routes of a server, and what it refuses. No answer but to the asker, and no log, quotes what was asked.

POST /predict          {"text": "..."}, or {"inputs": [{"text": "..."}, ...]}
POST /v1/completions   as OpenAI's clients know it; of language models
GET  /v1/models        its one model
GET  /live /ready      200 while the process lives; while it accepts requests
GET  /metrics          for Prometheus
GET  / /docs           pages to try and to read; /openapi.json, /about

400  no JSON, or no valid Unicode            422  JSON of another kind than expected
404  no such route, or model                 429  the queue is full: come back after Retry-After seconds
405  another method is meant                 431  the header is too large
413  body, items or tokens above a limit     500  a defect of ours
415  not application/json                    503  shutting down, or later than the deadline
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqlab import __version__, valid_json
from seqlab.models.hypothesis import Hypothesis
from seqlab.serving.attention import MOST, attends, attention_of, fits, rounded
from seqlab.serving.batcher import ClosedError, FullError, Job, where
from seqlab.serving.metrics import CONTENT_TYPE
from seqlab.serving.predictor import Asked
from seqlab.serving.service import Service, TooMuchError

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"


class Refused(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class Settings(BaseModel):
    """What a request may set. Numbers are bounded here, so that messages about them stay short."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Writing(Settings):
    """How a text is to be written; what is not given is as the model was trained to be judged."""

    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    top_p: float | None = Field(None, gt=0, le=1)
    width: int | None = Field(None, ge=1, le=1000)
    length_penalty: float | None = Field(None, ge=0, le=100)
    n_best: int | None = Field(None, ge=1, le=1000)


class Options(Settings):
    """What may stand beside `inputs`, or in an item that is sent alone."""

    decoding: Writing | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="Classes to tell the probabilities of.")
    attention: bool = Field(False, description="Tell what the model looked at, of one item.")


class Completion(Settings):
    """A request to /v1/completions. What would be ignored is refused."""

    prompt: str | list[str]
    model: str | None = None
    max_tokens: int = Field(16, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    stream: bool = False
    n: Literal[1] = 1
    best_of: Literal[1] | None = None
    echo: Literal[False] = False
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: None = None
    stop: None = None
    suffix: None = None
    user: str | None = None


def application(service: Service) -> ASGIApp:
    """The routes. `service` is started."""
    app = FastAPI(title="seqlab", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(Refused, refusal)
    app.add_exception_handler(HTTPException, refusal)
    watcher = ThreadPoolExecutor(1, "attention")  # one at a time, and beside the thread whose answers all wait for

    @app.get("/live")
    async def live() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "live"}

    @app.get("/ready")
    async def ready() -> Response:
        """Whether it accepts requests; 503 while it shuts down."""
        if service.queue.closed or not service.thread.is_alive():
            raise Refused(503, "not ready")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/about")
    async def about() -> dict[str, Any]:
        """The model's name and task, and an item to try it with."""
        example = json.loads(service.predictor.example)
        can = {"writes": service.decoding is not None, "attends": attends(service.predictor)}
        return {"task": service.task, "name": service.name, "example": example, **can}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html")

    @app.post("/predict", openapi_extra=body_of(Options, json.loads(service.predictor.example)))
    async def predict(request: Request) -> Response:
        """The model's answer to one item, or to each of "inputs"; an "id" is passed through."""
        items, options, alone = questions(await content_of(request, service.limits.body), service)
        writing = {
            k: v for k, v in (options.decoding.model_dump() if options.decoding else {}).items() if v is not None
        }
        require_fitting(service, writing, options.top_k)
        asked = await in_thread(service, items)
        if options.attention:
            require_attention(service, asked)
        how = decoding_of(service, writing) if writing else None
        jobs = [service.job(one, how, place, options.seed) for place, one in enumerate(asked)]
        found = await answers(service, jobs, request)
        told = [
            {**({"id": item["id"]} if "id" in item else {}), **service.told(one, answer, options.top_k)}
            for item, one, answer in zip(items, asked, found, strict=True)
        ]
        if options.attention:
            told[0]["attention"] = await attention(service, watcher, asked[0], found[0])
        return as_json(told[0] if alone else {"outputs": told})

    if service.task in ("LanguageModeling", "StreamLanguageModeling"):

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            """Its one model."""
            return {"object": "list", "data": [{"id": service.name, "object": "model", "owned_by": "seqlab"}]}

        @app.post("/v1/completions", openapi_extra=body_of(Completion, {"prompt": "Return the", "max_tokens": 16}))
        async def completions(request: Request) -> Response:
            """Continues each prompt; with "stream": true token by token, as server-sent events."""
            asked = checked(Completion, await content_of(request, service.limits.body))
            if asked.model not in (None, service.name):
                raise Refused(404, "there is no such model; see /v1/models")
            prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
            require_some(len(prompts), service.limits.items)
            if asked.stream and len(prompts) != 1:
                raise Refused(422, "stream: one prompt at a time")
            given = {name: getattr(asked, name) for name in ("max_tokens", "temperature")}
            if asked.temperature > 0:
                given |= {"top_k": asked.top_k, "top_p": asked.top_p if asked.top_p < 1 else None}
            how = decoding_of(service, {**given, "width": 1, "n_best": 1})
            seed = secrets.randbits(31) if asked.seed is None else asked.seed
            read = await in_thread(service, [{"text": prompt} for prompt in prompts])
            jobs = [service.job(one, how, place, seed) for place, one in enumerate(read)]
            head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
            head["model"] = service.name
            if asked.stream:
                events = stream(service, jobs[0], head)
                first = await anext(events)  # whatever is refused is so before the answer begins
                return StreamingResponse(chained(first, events), media_type="text/event-stream")
            found = await answers(service, jobs, request)
            written = [hypotheses[0] for hypotheses in found]
            decode = service.predictor.vocabularies.written.decode
            choices = [choice(decode(best.tokens.tolist()), ended(best), i) for i, best in enumerate(written)]
            return as_json({**head, "choices": choices, "usage": usage(read, written)})

    return Guard(app, service)


# ------------------------------------------------------------------ what comes in


def questions(content: Any, service: Service) -> tuple[list[dict[str, Any]], Options, bool]:
    """The items of a request to /predict, its options, and whether there is one item alone."""
    if not isinstance(content, dict):
        raise Refused(422, 'expected an object: {"inputs": [...]}, or one item')
    many = "inputs" in content
    named = {name: value for name, value in content.items() if many or name in Options.model_fields}
    items = named.pop("inputs") if many else [content]
    if not isinstance(items, list):
        raise Refused(422, "inputs: expected a list")
    require_some(len(items), service.limits.items)
    options = checked(Options, named)
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise Refused(422, f"item {number}: expected an object such as {service.predictor.example}")
        known = item.get("id")
        if known is not None and not (isinstance(known, int | str) and len(str(known)) <= 200):
            raise Refused(422, f"item {number}: id: expected a number, or a text of at most 200 characters")
    return items, options, not many


async def in_thread(service: Service, items: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """The items, tokenised beside the loop."""
    try:
        return await asyncio.to_thread(service.read, items)
    except TooMuchError as error:
        raise Refused(413, str(error)) from error
    except ValueError as error:
        raise Refused(422, str(error)) from error


async def content_of(request: Request, limit: int) -> Any:
    """The JSON of a body."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "expected content-type: application/json")
    too_large = Refused(413, f"the body has more than {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    try:
        content = json.loads(bytes(body).decode(), parse_constant=no_number)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can be read, and not be written
    except UnicodeError as error:
        raise Refused(400, "the body is not valid Unicode") from error
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error
    return content


def no_number(name: str) -> None:
    """NaN and infinity are no JSON."""
    raise ValueError(name)


def checked(kind: type[Any], content: Any) -> Any:
    """The settings in a request."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        if first["type"] == "extra_forbidden":  # whose name is the asker's own
            raise Refused(422, f"an unknown setting; there are {', '.join(kind.model_fields)}") from error
        place = ".".join(name for name in first["loc"][:2] if isinstance(name, str))
        raise Refused(422, f"{place or 'the body'}: {first['msg'][:300]}") from error


def require_some(items: int, limit: int) -> None:
    if items > limit:
        raise Refused(413, f"more than {limit} items in a request")
    if items == 0:
        raise Refused(422, "no item: expected at least one")


def require_fitting(service: Service, writing: Mapping[str, Any], top_k: int | None) -> None:
    if top_k is not None and not service.predictor.tells_classes:
        raise Refused(422, "top_k: this model tells no probabilities of classes")
    if writing and service.decoding is None:
        raise Refused(422, "decoding: this model does not write")


def require_attention(service: Service, asked: Sequence[Asked]) -> None:
    if not attends(service.predictor):
        raise Refused(422, "attention: this model has none to tell")
    if len(asked) > 1:
        raise Refused(413, "attention: one item at a time")
    require_small(asked[0])


def require_small(asked: Asked, written: Hypothesis | None = None) -> None:
    if not fits(asked, written):
        raise Refused(413, f"attention: of at most {MOST} tokens read, and as many written; ask without it")


def decoding_of(service: Service, given: Mapping[str, Any]) -> Any:
    """How to write, within the limits."""
    limits = service.limits
    for name, limit in (("max_tokens", limits.new_tokens), ("width", limits.width)):
        if given.get(name) is not None and given[name] > limit:
            raise Refused(413, f"{name}: at most {limit}")
    try:
        return service.how(given)
    except ValueError as error:
        raise Refused(422, str(error)) from error


def body_of(kind: type[BaseModel], example: Any) -> dict[str, Any]:
    """What OpenAPI says of a body, which the routes read themselves, to refuse it early."""
    schema = kind.model_json_schema()
    if schema.pop("$defs", None):
        schema["properties"]["decoding"] = Writing.model_json_schema()
    if kind is Options:
        schema["properties"]["inputs"] = {"type": "array", "items": {"type": "object"}}
        example = {"inputs": [example]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


# ------------------------------------------------------------------ what goes out


async def answers(service: Service, jobs: Sequence[Job], request: Request) -> list[Any]:
    """The answers to all of these; nobody's any more when the client leaves, or at the deadline."""
    enqueue(service, jobs)
    waiting = asyncio.ensure_future(all_of(jobs))
    gone = asyncio.ensure_future(leaves(request))
    try:
        await asyncio.wait((waiting, gone), timeout=service.limits.deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise Refused(499, "the client has left")
        if not waiting.done():
            raise Refused(503, "no answer before the deadline", **{"retry-after": "1"})
        return list(waiting.result())
    except TimeoutError as error:
        raise Refused(503, "no answer before the deadline", **{"retry-after": "1"}) from error
    finally:
        gone.cancel()
        waiting.cancel()
        for job in jobs:
            job.abandon()  # those that are answered do not mind


async def all_of(jobs: Sequence[Job]) -> list[Any]:
    return await asyncio.gather(*(asyncio.wrap_future(job.answer) for job in jobs))


def enqueue(service: Service, jobs: Sequence[Job]) -> None:
    try:
        service.queue.put(jobs)
    except FullError as error:
        raise Refused(429, "too many requests wait; come back later", **{"retry-after": "1"}) from error
    except ClosedError as error:
        raise Refused(503, "shutting down") from error


async def attention(service: Service, watcher: Executor, asked: Asked, answer: Any) -> dict[str, Any]:
    """What the model looked at for an answer, of several the best."""
    written: Hypothesis | None = None if service.decoding is None else answer[0]
    require_small(asked, written)

    def told() -> dict[str, Any]:
        return rounded(attention_of(service.predictor, asked, written))

    try:
        telling = asyncio.get_running_loop().run_in_executor(watcher, told)
        return await asyncio.wait_for(telling, service.limits.deadline_s)
    except TimeoutError as error:
        raise Refused(503, "no answer before the deadline", **{"retry-after": "1"}) from error


async def leaves(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(service: Service, job: Job, head: Mapping[str, Any]) -> AsyncIterator[str]:
    """Server-sent events: the text as it is written, and how it ended."""
    loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | None]()
    job.on_token = lambda token: loop.call_soon_threadsafe(tokens.put_nowait, token)
    job.answer.add_done_callback(lambda _: loop.call_soon_threadsafe(tokens.put_nowait, None))
    enqueue(service, [job])
    written: list[int] = []
    told = ""
    try:
        while (token := await asyncio.wait_for(tokens.get(), service.limits.deadline_s)) is not None:
            written.append(token)
            text = settled(service.predictor.vocabularies.written.decode(written))
            if len(text) > len(told) and text.startswith(told):
                yield event({**head, "choices": [choice(text[len(told) :], None)]})
                told = text
        (best, *_) = job.answer.result()
        text = service.predictor.vocabularies.written.decode(written)
        yield event({**head, "choices": [choice(text[len(told) :], ended(best))]})
        yield "data: [DONE]\n\n"
    except TimeoutError as error:
        raise Refused(503, "no answer before the deadline", **{"retry-after": "1"}) from error
    finally:
        job.abandon()


def settled(text: str) -> str:
    """What more bytes will not change: three at the end may be the beginning of a character."""
    unsure = min(3, len(text) - len(text.rstrip("\ufffd")))
    return text[: len(text) - unsure]


async def chained(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    """All of these; what fails on the way ends the stream, for its status is told already."""
    yield first
    try:
        async for one in rest:
            yield one
    except Refused as error:
        yield event({"error": {"message": error.message}})


def event(content: Mapping[str, Any]) -> str:
    return f"data: {valid_json.dumps(content, ensure_ascii=False)}\n\n"


def choice(text: str, finish_reason: str | None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}


def ended(best: Hypothesis) -> str:
    return "stop" if best.finished else "length"


def usage(read: Sequence[Asked], written: Sequence[Hypothesis]) -> dict[str, int]:
    """Tokens; the end mark that a prompt begins with is one."""
    prompt, new = sum(one.tokens for one in read), sum(len(best.tokens) for best in written)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def as_json(content: Any) -> Response:
    return Response(valid_json.dumps(content, ensure_ascii=False), media_type="application/json")


async def refusal(_: Any, error: Exception) -> Response:
    """What is told instead of an answer."""
    if isinstance(error, HTTPException):  # of the router
        messages = {404: "there is no such route", 405: "this route takes another method"}
        error = Refused(error.status_code, messages.get(error.status_code, "refused"), **dict(error.headers or {}))
    assert isinstance(error, Refused)
    content = {"error": {"message": error.message, "status": error.status}}
    return JSONResponse(content, error.status, error.headers)


class Guard:
    """Around all routes: counts requests; and an error of ours is told by its place alone, in log and answer."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self.app, self.service = app, service
        self.routes = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            logger.error("%s", where(error))
            if not status:
                failed = await refusal(None, Refused(500, "a defect of ours"))
                await failed(scope, receive, noted)
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.service.metrics.request(route, status, time.monotonic() - begin)
