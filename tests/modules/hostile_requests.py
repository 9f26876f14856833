"""Requests that are wrong, or meant to harm, and the status that `docs/deploy.md` promises each."""

from __future__ import annotations

import json
from typing import Any

from client import JSON, Reply

CANARY = "xyzzy"  # stands in what is sent, and must not in what is refused
UNFINISHED = f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\ncontent-length: 99\r\n\r\n{{".encode()


def body(content: Any) -> tuple[str, ...]:
    return ("POST", "/predict", content if isinstance(content, str) else json.dumps(content), JSON)


HOSTILE: list[tuple[int, tuple[str, ...]]] = [
    (404, ("GET", f"/{CANARY}")),
    (404, ("GET", "/../../etc/passwd")),
    (404, ("GET", "/%2e%2e%2f%2e%2e%2fetc/passwd")),
    (404, ("GET", "/page/index.html")),
    (404, ("GET", "/predict/../../x")),
    (404, ("GET", "/%00")),
    (404, ("GET", "/..%5c..%5cx")),
    (404, ("GET", "//etc/passwd")),
    (404, ("GET", "/v1/models/../../x")),
    (404, ("POST", "/v1/completions", '{"prompt": "a"}', JSON)),  # of a model that does not write
    (405, ("GET", "/predict")),
    (405, ("PUT", "/predict", "{}", JSON)),
    (405, ("POST", "/live", "{}", JSON)),
    (405, ("XYZZY", "/predict")),
    (404, ("GET", "/live/")),
    (404, ("POST", "/predict/", "{}", JSON)),
    (405, ("OPTIONS", "/predict", "", "origin: http://xyzzy", "access-control-request-method: POST")),
    (415, ("POST", "/predict", "{}", JSON, "content-encoding: gzip")),
    (431, ("GET", "/live", "", *["x: y"] * 101)),
    (431, ("GET", f"/{CANARY * 14_000}")),
    (415, ("POST", "/predict", '{"text": "a"}')),
    (415, ("POST", "/predict", '{"text": "a"}', f"content-type: text/{CANARY}")),
    (400, body("")),
    (400, body(f"{{{CANARY}")),
    (400, body(f'{{"text": "{CANARY}"')),
    (400, body('{"text": "a", "score": NaN}')),
    (400, body('{"text": "a", "score": -Infinity}')),
    (400, body("[" * 9000 + "]" * 9000)),
    (400, body('{"a":' * 3000 + "1" + "}" * 3000)),
    (400, body('{"text": "\\ud800' + CANARY + '"}')),
    (400, body('{"text": ' + "9" * 9000 + "}")),
    (422, body([])),
    (422, body(3)),
    (422, body("null")),
    (422, body({"inputs": {}})),
    (422, body({"inputs": []})),
    (422, body({"inputs": [CANARY]})),
    (422, body({"inputs": [{CANARY: 1}]})),
    (422, body({"inputs": [{"text": 3}] * 32})),
    (422, body({"inputs": [{"text": "a"}], CANARY: 1})),
    (422, body({"inputs": [{"text": "a"}], "seed": CANARY})),
    (422, body({"inputs": [{"text": "a"}], "seed": -1})),
    (422, body({"inputs": [{"text": "a"}], "seed": True})),
    (422, body({"inputs": [{"text": "a"}], "top_k": 10**18})),
    (422, body({"inputs": [{"text": "a"}], "decoding": {"width": 3}})),
    (422, body({"text": "a", "decoding": {CANARY: 1}})),
    (422, body({"text": "a", "id": [CANARY]})),
    (422, body({"text": "a", "id": True})),
    (422, body({"text": "a", "id": "x" * 201})),
    (413, body({"inputs": [{"text": "a"}] * 33})),
    (413, body({"inputs": [CANARY] * 2000})),
    (413, body({"text": CANARY * 200})),
    (413, body({"inputs": [{"text": CANARY * 80}] * 3})),
    (413, body({"text": CANARY * 10_000})),
]  # fmt: skip
CHUNKED = "transfer-encoding: chunked"
RAW = [
    (413, f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\ncontent-length: {10**12}\r\n\r\n{CANARY}".encode()),
    (
        413,
        f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\n{CHUNKED}\r\n\r\n".encode()
        + f"{0x1000:x}\r\n{CANARY[0] * 0x1000}\r\n".encode() * 9,
    ),
    (431, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + CANARY.encode() * 200_000 + b"\r\n\r\n"),
    (400, f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\n{CHUNKED}\r\n\r\n{CANARY}\r\n".encode()),
    (400, f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{CHUNKED}\r\n\r\n{CANARY}\r\n".encode()),
    (421, f"GET / HTTP/1.1\r\nhost: {CANARY}:8000\r\n\r\n".encode()),
    (408, b"GET /live HTT"),
    (408, UNFINISHED),
    (400, f"GET / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode()),
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
]


def refused(found: Reply | None, status: int) -> None:
    assert found is not None
    assert found.status == status, found
    assert found.headers["content-type"] == "application/json"
    assert found.json["error"]["status"] == status
    assert not any(name.startswith("access-control") for name in found.headers)  # no page from elsewhere may read it
    assert len(found.body) <= 4096
    assert CANARY not in found.body.decode()
    assert b"Traceback" not in found.body
