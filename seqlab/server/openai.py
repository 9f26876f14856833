"""/v1, as OpenAI's clients know it: a language model continues prompts, at once or token by token."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from pydantic import Field, model_validator
from starlette.types import Receive, Scope, Send

from seqlab.inference.predictor import Request
from seqlab.inference.streamed_text import StreamedText
from seqlab.models.hypothesis import Hypothesis
from seqlab.server import openapi
from seqlab.server.queue import Job, where
from seqlab.server.requests import (
    JsonBody,
    RefusedError,
    answers,
    as_json,
    checked,
    content_of,
    decoding_of,
    error_content,
    read_items,
    refuse_failed_jobs,
    require_some,
    room,
    unless_left,
)
from seqlab.server.service import Service
from seqlab.storage.json import dump_json

logger = logging.getLogger(__name__)

EXAMPLE = {"prompt": "Return the", "max_tokens": 16}


class StreamOptions(JsonBody):
    """What a stream tells besides the text."""

    include_usage: bool = False


class Completion(JsonBody):
    """A request to /v1/completions; null is as if nothing were given. What would be ignored is refused, but `user`."""

    prompt: str | list[str]
    model: str | None = None
    max_tokens: int = Field(16, ge=1, le=1_000_000)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    best_of: Literal[1] | None = None
    echo: Literal[False] = False
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: None = None
    stop: None = None
    suffix: None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def given(cls, content: Any) -> Any:
        """Many clients send null for what they do not set."""
        return {k: v for k, v in content.items() if v is not None} if isinstance(content, dict) else content


def add_completions(app: FastAPI, service: Service) -> None:
    """The routes of a language model."""
    created = int(time.time())
    model = {"id": service.name, "object": "model", "created": created, "owned_by": "seqlab"}

    @app.get("/v1/models", responses=openapi.tells("Models"))
    async def models() -> dict[str, Any]:
        """Its one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model:path}", responses=openapi.tells("Model", 404), openapi_extra=openapi.named("model"))
    async def one_model(request: HttpRequest) -> dict[str, Any]:
        """Its one model, by name."""
        require_known(request.path_params["model"], service)
        return model

    @app.post(
        "/v1/completions",
        openapi_extra=openapi.takes("Completion", EXAMPLE),
        responses=openapi.tells("Completed", 400, 404, 408, 413, 415, 422, 429, 500, 503, streams=True),
    )
    async def completions(request: HttpRequest) -> Response:
        """Continues each prompt; with "stream": true token by token, as server-sent events."""
        deadline = service.deadline()
        completion = checked(Completion, await content_of(request, service.limits.body))
        if completion.model is not None:
            require_known(completion.model, service)
        prompts = [completion.prompt] if isinstance(completion.prompt, str) else completion.prompt
        require_some(len(prompts), service.limits.items, "prompt")
        if completion.stream and len(prompts) != 1:
            raise RefusedError(422, "stream: one prompt at a time", "stream")
        if completion.stream_options is not None and not completion.stream:
            raise RefusedError(422, 'stream_options: only with "stream": true', "stream_options")
        how = decoding_of(service, writing(completion))
        seed = secrets.randbits(31) if completion.seed is None else completion.seed
        head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        head["model"] = service.name
        with room(service, len(prompts)) as put:
            read = await read_items(service, [{"text": prompt} for prompt in prompts], "prompt")
            jobs = [service.job(one, how, place, seed, deadline) for place, one in enumerate(read)]
            if completion.stream:
                counted = completion.stream_options is not None and completion.stream_options.include_usage
                events = stream(service, jobs[0], put, read[0], head, counted)
                try:  # whatever is refused is so before the answer begins
                    return Events(request, await unless_left(request, anext(events)), events)
                except BaseException:
                    await events.aclose()
                    raise
            put(jobs)
            found = await answers(jobs, request)
        written = [hypotheses[0] for hypotheses in found]
        decode = service.predictor.vocabularies.written.decode
        choices = [choice(decode(best.tokens.tolist()), ended(best), i) for i, best in enumerate(written)]
        return as_json({**head, "choices": choices, "usage": usage(read, written)})


def require_known(name: str, service: Service) -> None:
    if name != service.name:
        raise RefusedError(404, "there is no such model; see /v1/models", "model")


def writing(completion: Completion) -> dict[str, Any]:
    """Return the decoding of a completion, whose defaults are those of the API. Greedy decoding has no filters."""
    draws = completion.temperature > 0
    return {
        "max_tokens": completion.max_tokens,
        "temperature": completion.temperature,
        "top_k": completion.top_k if draws else None,
        "top_p": completion.top_p if draws and completion.top_p < 1 else None,
        "width": 1,
        "n_best": 1,
    }


# ------------------------------------------------------------------ token by token


class Events(StreamingResponse):
    """Server-sent events. What they come from is closed however the answer ends, and the job with it.

    Args:
        request: is counted by the status of an error on the way: its own status is told already.
        first: event.
        rest: of them.
    """

    def __init__(self, request: HttpRequest, first: str, rest: AsyncGenerator[str, None]) -> None:
        self.rest = rest
        super().__init__(chained(request, first, rest), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.rest):
            await super().__call__(scope, receive, send)


async def chained(request: HttpRequest, first: str, rest: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """All of these; what fails on the way ends the stream."""
    yield first
    try:
        async for one in rest:
            yield one
    except Exception as error:
        if not isinstance(error, RefusedError):
            logger.error("%s", where(error))
            error = RefusedError(500, "a defect of ours")
        request.scope["state"]["status"] = error.status
        yield event(error_content(error, request.scope["path"]))


async def stream(
    service: Service,
    job: Job,
    put: Callable[[Sequence[Job]], None],
    prompt: Request,
    head: Mapping[str, Any],
    counted: bool,
) -> AsyncGenerator[str, None]:
    """The text as it is written, how it ended, and, if `counted`, how many tokens there were."""
    loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | None]()
    job.on_token.append(lambda token: loop.call_soon_threadsafe(tokens.put_nowait, token))
    job.answer.add_done_callback(lambda _: loop.call_soon_threadsafe(tokens.put_nowait, None))
    put([job])
    text = StreamedText(service.predictor.vocabularies.written.decode)
    part = {**head, "usage": None} if counted else head

    async def following() -> int | None:
        with refuse_failed_jobs():
            return await asyncio.wait_for(tokens.get(), service.limits.deadline_s)

    try:
        while (token := await following()) is not None:
            if piece := text.add(token):
                yield event({**part, "choices": [choice(piece, None)]})
        with refuse_failed_jobs():
            (best, *_) = job.answer.result()
        yield event({**part, "choices": [choice(text.rest(), ended(best))]})
        if counted:
            yield event({**head, "choices": [], "usage": usage([prompt], [best])})
        yield "data: [DONE]\n\n"
    finally:
        job.abandon()


def event(content: Mapping[str, Any]) -> str:
    return f"data: {dump_json(content, ensure_ascii=False)}\n\n"


# ------------------------------------------------------------------ of an answer


def choice(text: str, finish_reason: str | None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}


def ended(best: Hypothesis) -> str:
    return "stop" if best.finished else "length"


def usage(read: Sequence[Request], written: Sequence[Hypothesis]) -> dict[str, int]:
    """Tokens; the end mark that a prompt begins with is one."""
    prompt, new = sum(one.tokens for one in read), sum(len(best.tokens) for best in written)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
