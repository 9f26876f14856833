"""What the routes take and answer, for /openapi.json: they read bodies themselves, to refuse them early."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from seqlab.server.service import Service

Schema = dict[str, Any]

REFUSED = {
    400: "No HTTP, no JSON, or no valid Unicode.",
    404: "There is no such model.",
    408: "Not sent in time.",
    413: "Body, items or tokens above a limit.",
    415: "Not application/json, or compressed.",
    422: "JSON of another kind than expected.",
    429: "The queue is full: come back after Retry-After seconds.",
    500: "A defect of ours.",
    503: "Shutting down, too many connections, or later than the deadline.",
}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": ["number", "null"]}  # null: it is not finite
TEXTS: Schema = {"type": "array", "items": TEXT}
ID: Schema = {"type": ["number", "string", "null"], "maxLength": 200, "description": "Comes back with the answer."}
# By what the records of a task have first: under which names an item may bring it.
NAMES = {"text": ("text",), "words": ("words", "text"), "source": ("source", "text")}


def record(required: Mapping[str, Schema], **others: Schema) -> Schema:
    """An object with these properties, and maybe those."""
    return {"type": "object", "required": list(required), "properties": {**required, **others}}


ERROR = record({"error": record({"message": TEXT, "status": {"type": "integer"}}, type=TEXT)})
SCORED = record({"score": NUMBER}, continuation=TEXT, target=TEXT)
SPAN = record(
    {"type": TEXT, "words": {"type": "array", "items": COUNT}, "probability": NUMBER},
    characters={"type": "array", "items": COUNT},
)
ATTENTION = record(
    {"source": TEXTS, "weights": {"type": "array", "items": {"type": "array", "items": NUMBER}}}, target=TEXTS
)
TOKEN = record({"token": TEXT, "probability": NUMBER})
ANSWER: Schema = {
    "description": "Of each task its own: what is known of each word, or which class it is, or what is written.",
    **record(
        {},
        id=ID,
        label={"type": ["string", "number", "array", "null"], "items": TEXT},
        probabilities={"type": ["object", "array"], "additionalProperties": NUMBER, "items": NUMBER},
        words=TEXTS,
        tags=TEXTS,
        spans={"type": "array", "items": SPAN},
        continuation=TEXT,
        target=TEXT,
        best={"type": "array", "items": SCORED},
        filled=TEXT,
        masks={"type": "array", "items": {"type": "array", "items": TOKEN}},
        attention=ATTENTION,
    ),
}
MODEL = record({"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT})
CHOICE = record({"index": COUNT, "text": TEXT, "finish_reason": {"enum": ["stop", "length"]}})
USAGE = record({name: COUNT for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
OF_MODELS = {
    "Model": MODEL,
    "Models": record({"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}}),
    "Completed": record(
        {
            "id": TEXT,
            "object": {"const": "text_completion"},
            "created": COUNT,
            "model": TEXT,
            "choices": {"type": "array", "items": CHOICE},
            "usage": USAGE,
        }
    ),
}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def takes(name: str, example: Any) -> dict[str, Any]:
    """A route's body, for `openapi_extra`."""
    content = {"application/json": {"schema": ref(name), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def named(parameter: str) -> dict[str, Any]:
    """A part of a route's path, for `openapi_extra`."""
    return {"parameters": [{"name": parameter, "in": "path", "required": True, "schema": TEXT}]}


def tells(name: str | None, *refused: int, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's answers, for `responses`.

    Args:
        name: of the schema; None: as FastAPI reads it off the route.
        refused: statuses of its own; any route may refuse a request.
        streams: or server-sent events.
    """
    error = {"application/json": {"schema": ref("Error")}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": REFUSED[status], "content": error} for status in refused
    }
    refusals["default"] = {"description": "Refused.", "content": error}
    content: dict[str, Any] = {} if name is None else {"application/json": {"schema": ref(name)}}
    if streams:
        content["text/event-stream"] = {"schema": TEXT}
    return {200: {"description": "The answer.", "content": content}, **refusals}


def components(service: Service, options: type[BaseModel], *others: type[BaseModel]) -> dict[str, Any]:
    """All schemas that are named above.

    Args:
        options: what may stand beside items in a request to /predict.
        others: that requests are read by.
    """
    models = [(kind, "validation") for kind in (options, *others)]
    _, known = models_json_schema(models, ref_template=ref("{model}")["$ref"])  # type: ignore[arg-type]
    settings = known["$defs"][options.__name__]
    many = {
        **settings,
        "properties": {"inputs": {"type": "array", "minItems": 1, "items": ref("Item")}, **settings["properties"]},
        "required": ["inputs"],
    }
    one = {
        "allOf": [ref("Item"), {"type": "object", "properties": settings["properties"]}],
        "not": {"required": ["inputs"]},
    }
    schemas = {
        **known["$defs"],
        "Item": item(service),
        "Request": {"oneOf": [one, many]},
        "Answer": ANSWER,
        "Answered": {"anyOf": [record({"outputs": {"type": "array", "items": ref("Answer")}}), ref("Answer")]},
        "Error": ERROR,
        **(OF_MODELS if others else {}),
    }
    return {"schemas": schemas}


def item(service: Service) -> Schema:
    """What a task's form reads of an item; what else stands in it is let pass."""
    example = json.loads(service.predictor.example)
    fields = service.predictor.preprocessor.fields
    names = NAMES.get(fields[0], ())  # a form of your own may read anything
    properties = {name: TEXTS if name == "words" else TEXT for name in names}
    single = service.predictor.fields and "pair" not in service.predictor.fields
    pair = {"pair": {"type": "null" if single else ["string", "null"]}} if "label" in fields else {}
    begun = {"target_prefix": TEXT} if "source" in names else {}
    required = [{"required": [name, *(["pair"] if "pair" in example else [])]} for name in names]
    return {
        "type": "object",
        "properties": {**properties, **pair, **begun, "id": ID},
        **({"anyOf": required} if required else {}),
        "example": example,
    }
