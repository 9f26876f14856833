"""The routes of a server, and what it refuses. No log quotes a request, and no answer quotes another client's.

POST /predict          {"text": "..."}, or {"inputs": [{"text": "..."}, ...]}
POST /v1/completions   as OpenAI's clients know it; of language models (seqlab/server/openai.py)
GET  /v1/models        its one model
GET  /live /ready      200 while the process lives; while it accepts requests
GET  /metrics          for Prometheus
GET  / /docs           pages to try and to read; /openapi.json, /about

400  no HTTP, no JSON, or no valid Unicode   421  a field Host that is not this machine's
404  no such route, or model                 422  JSON of another kind than expected
405  another method is meant                 429  the queue is full: come back after Retry-After seconds
408  not sent in time                        431  the header is too large
413  body, items or tokens above a limit     500  a defect of ours
415  not application/json, or compressed     503  shutting down, crowded, or later than the deadline
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from seqlab import __version__
from seqlab.inference.attention import MOST, attends, attention_of, fits, rounded
from seqlab.inference.predictor import NO_RANKS, Request
from seqlab.models.hypothesis import Hypothesis
from seqlab.server import openapi
from seqlab.server.guard import Guard, refusal
from seqlab.server.metrics import CONTENT_TYPE
from seqlab.server.openai import Completion, add_completions
from seqlab.server.pages import page
from seqlab.server.requests import (
    JsonBody,
    RefusedError,
    answers,
    as_json,
    checked,
    content_of,
    decoding_of,
    read_items,
    refuse_failed_jobs,
    require_some,
    room,
)
from seqlab.server.service import Service


class DecodingBody(JsonBody):
    """The decoding of a text. A setting that is not given is the one the model is evaluated with."""

    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    top_p: float | None = Field(None, gt=0, le=1)
    width: int | None = Field(None, ge=1, le=1000)
    length_penalty: float | None = Field(None, ge=0, le=100)
    n_best: int | None = Field(None, ge=1, le=1000)


class Options(JsonBody):
    """What may stand beside `inputs`, or in an item that is sent alone."""

    decoding: DecodingBody | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="How many classes, or candidates for a mask, to list."
    )
    attention: bool = Field(False, description="Tell what the model looked at, of one item.")


def application(service: Service, hosts: Collection[str] = ()) -> ASGIApp:
    """The routes. `service` is started; `hosts`: see `Guard`."""
    app = FastAPI(title="seqlab", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    for kind in (RefusedError, HTTPException, Exception):
        app.add_exception_handler(kind, refusal)
    example = json.loads(service.predictor.example)
    watcher = ThreadPoolExecutor(1, "attention")  # one at a time, and beside the thread whose answers all wait for

    @app.get("/live", responses=openapi.tells(None))
    async def live() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "live"}

    @app.get("/ready", responses=openapi.tells(None, 503))
    async def ready() -> dict[str, str]:
        """Whether it accepts requests; 503 while it shuts down."""
        if service.queue.closed or not service.thread.is_alive():
            raise RefusedError(503, "not ready")
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=openapi.tells(None))
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/about", responses=openapi.tells(None))
    async def about() -> dict[str, Any]:
        """The model's name and task, its labels in their order, and an item to try it with."""
        labels = service.predictor.vocabularies.labels
        abilities = {"writes": service.decoding is not None, "attends": attends(service.predictor), "labels": labels}
        return {"task": service.task, "kind": service.kind, "name": service.name, "example": example, **abilities}

    app.get("/", include_in_schema=False)(page("index.html"))
    app.get("/docs", include_in_schema=False)(page("docs.html"))

    @app.post(
        "/predict",
        openapi_extra=openapi.takes("Request", {"inputs": [example]}),
        responses=openapi.tells("Answered", 400, 408, 413, 415, 422, 429, 500, 503),
    )
    async def predict(request: HttpRequest) -> Response:
        """The model's answer to one item, or to each of "inputs"; an "id" is passed through."""
        deadline = service.deadline()
        items, options, alone = questions(await content_of(request, service.limits.body), service)
        writing = {
            k: v for k, v in (options.decoding.model_dump() if options.decoding else {}).items() if v is not None
        }
        how = decoding_of(service, writing) if writing else None
        with room(service, len(items)) as put:
            requests = await read_items(service, items)
            if options.attention:
                require_attention(service, requests)
            jobs = [service.job(one, how, place, options.seed, deadline) for place, one in enumerate(requests)]
            put(jobs)
            found = await answers(jobs, request)
        outputs = [
            {**({"id": item["id"]} if "id" in item else {}), **service.to_json(one, answer, options.top_k)}
            for item, one, answer in zip(items, requests, found, strict=True)
        ]
        if options.attention:
            outputs[0]["attention"] = await attention(service, watcher, requests[0], found[0])
        return as_json(outputs[0] if alone else {"outputs": outputs})

    known: list[type[JsonBody]] = [Options]
    if service.task in ("LanguageModeling", "StreamLanguageModeling"):
        add_completions(app, service)
        known.append(Completion)
    app.openapi()["components"] = openapi.components(service, *known)
    return Guard(app, service, hosts)


def questions(content: Any, service: Service) -> tuple[list[dict[str, Any]], Options, bool]:
    """The items of a request to /predict, its options, and whether there is one item alone."""
    if not isinstance(content, dict):
        raise RefusedError(422, 'expected an object: {"inputs": [...]}, or one item')
    many = "inputs" in content
    named = {name: value for name, value in content.items() if many or name in Options.model_fields}
    items = named.pop("inputs") if many else [content]
    if not isinstance(items, list):
        raise RefusedError(422, "inputs: expected a list")
    require_some(len(items), service.limits.items)
    if named.get("decoding") and service.decoding is None:  # before what stands in it is looked at
        raise RefusedError(422, "decoding: this model writes nothing, so that there is nothing to set")
    options = checked(Options, named)
    if options.top_k is not None and not service.predictor.preprocessor.ranks_candidates:
        raise RefusedError(422, f"top_k: {NO_RANKS}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise RefusedError(422, f"item {number}: expected an object such as {service.predictor.example}")
        known = item.get("id")
        if known is not None and (
            isinstance(known, bool) or not isinstance(known, int | float | str) or len(str(known)) > 200
        ):
            raise RefusedError(422, f"item {number}: id: expected a number, or a text of at most 200 characters")
    return items, options, not many


def require_attention(service: Service, requests: Sequence[Request]) -> None:
    if not attends(service.predictor):
        raise RefusedError(422, "attention: this model has none to tell")
    if len(requests) > 1:
        raise RefusedError(413, "attention: one item at a time")
    require_small(requests[0])


def require_small(request: Request, written: Hypothesis | None = None) -> None:
    if not fits(request, written):
        raise RefusedError(413, f"attention: of at most {MOST} tokens read, and as many written; ask without it")


async def attention(service: Service, watcher: Executor, request: Request, answer: Any) -> dict[str, Any]:
    """What the model looked at for an answer, of several the best."""
    written: Hypothesis | None = None if service.decoding is None else answer[0]
    require_small(request, written)

    def weights() -> dict[str, Any]:
        return rounded(attention_of(service.predictor, request, written))

    with refuse_failed_jobs():
        telling = asyncio.get_running_loop().run_in_executor(watcher, weights)
        return await asyncio.wait_for(telling, service.limits.deadline_s)
