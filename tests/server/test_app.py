"""The server: what it answers, what it refuses, and that nobody can hurt it or hear what another asked."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import logging
import re
import socket as socket_module
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import seqlab
from client import JSON, reply
from hostile_requests import CANARY, HOSTILE, RAW, UNFINISHED, refused
from seqlab.errors import InputError
from seqlab.models.decoding import Decoding
from seqlab.server import listen as server_module
from seqlab.server.app import application
from seqlab.server.listen import Server, hosts_of, listen, serve
from seqlab.server.protocol import RESERVE
from seqlab.server.service import ServerBatching, ServerLimits, Service
from served import Served, serving
from tiny_bundles import save

ENDLESS = 100_000  # tokens, minutes of writing


@pytest.fixture(scope="module")
def classes(bundles: dict[str, Path]) -> Iterator[Served]:
    with serving(bundles["classification"], body=20_000, item_tokens=600, request_tokens=1000, read_s=1.0) as served:
        yield served


@pytest.fixture(scope="module")
def writer(bundles: dict[str, Path]) -> Iterator[Served]:
    with serving(bundles["language_modeling-transformer"], new_tokens=3000, width=4) as served:
        yield served


@pytest.fixture(scope="module")
def endless(bundles: dict[str, Path]) -> Iterator[Served]:
    """Writes for one at a time."""
    batching = ServerBatching(rows=1, wait_ms=1)
    with serving(bundles["language_modeling"], batching, endless=True, new_tokens=ENDLESS) as served:
        yield served


def test_answers_are_those_of_the_predictor(classes: Served, bundles: dict[str, Path]) -> None:
    items = [{"text": "a film", "id": 3}, {"text": "fine", "pair": "film", "id": "x"}, {"text": ""}]
    expected = seqlab.load(bundles["classification"]).predict(items)
    found = classes.post("/predict", {"inputs": items})
    assert (found.status, found.headers["content-type"]) == (200, "application/json")
    for one, item, right in zip(found.json["outputs"], items, expected, strict=True):
        assert one.get("id") == item.get("id")
        assert one["label"] == right["label"]
        assert one["probabilities"] == pytest.approx(right["probabilities"], abs=1e-6)
    alone = classes.post("/predict", items[0]).json
    assert alone["id"] == 3
    assert alone["probabilities"] == pytest.approx(expected[0]["probabilities"], abs=1e-6)
    (top,) = classes.post("/predict", {"inputs": items[:1], "top_k": 1}).json["outputs"]
    assert top["probabilities"].keys() == {top["label"]}


def test_what_a_model_writes_is_what_the_predictor_writes(writer: Served, bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["language_modeling-transformer"])
    items = [{"text": "a film"}, {"text": "Zoë"}]
    for how in ({"max_tokens": 5}, {"max_tokens": 5, "temperature": 0.8}, {"width": 3, "n_best": 2, "max_tokens": 4}):
        found = writer.post("/predict", {"inputs": items, "decoding": how, "seed": 5})
        expected = predictor.predict(items, Decoding(**how), seed=5)  # type: ignore[arg-type]
        assert [one["continuation"] for one in found.json["outputs"]] == [one["continuation"] for one in expected]
    assert "best" in found.json["outputs"][0]


def test_completions_streamed_or_not_are_one_text(writer: Served) -> None:
    asked = {"prompt": "a film", "seed": 4, "max_tokens": 40, "temperature": 1.5}
    whole = writer.post("/v1/completions", asked)
    assert whole.status == 200
    (choice,) = whole.json["choices"]
    assert whole.json["usage"]["prompt_tokens"] == 7
    assert whole.json["model"] == "tiny"
    streamed = writer.post("/v1/completions", {**asked, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *events, end = [part.removeprefix("data: ") for part in streamed.body.decode().strip().split("\n\n")]
    assert end == "[DONE]"
    parts = [json.loads(one)["choices"][0] for one in events]
    assert len(parts) > 1
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
    many = writer.post("/v1/completions", {**asked, "prompt": ["a film", "b"], "model": "tiny"}).json
    assert many["choices"][0]["text"] == choice["text"]
    assert [one["index"] for one in many["choices"]] == [0, 1]
    assert writer.get("/v1/models").json["data"][0]["id"] == "tiny"


def writing(served: Served, stream: bool, connection: socket_module.socket | None = None) -> socket_module.socket:
    """A connection whose client waits for a text without end."""
    asked = json.dumps({"prompt": "a", "max_tokens": ENDLESS, "temperature": 0, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\ncontent-length: {len(asked)}\r\n\r\n"
    connection, before = connection or served.connect(), served.service.queue.unanswered
    connection.sendall(head.encode() + asked)
    until(lambda: served.service.queue.unanswered == before + 1)
    return connection


def test_who_leaves_is_computed_no_more(endless: Served, caplog: pytest.LogCaptureFixture) -> None:
    queue = endless.service.queue
    for stream in (False, True):
        with writing(endless, stream):
            pass
        until(lambda: queue.unanswered == 0)
    assert endless.metric("seqlab_tokens_written_total") < ENDLESS / 2
    gc.collect()
    assert caplog.text == ""


def test_who_leaves_while_they_wait_makes_room(endless: Served, caplog: pytest.LogCaptureFixture) -> None:
    queue = endless.service.queue
    left = 'seqlab_requests_total{route="/v1/completions",status="499"}'
    with writing(endless, stream=True):
        for stream in (False, True):
            before = endless.metric(left)
            with writing(endless, stream):
                until(lambda: len(queue) == 1)
            until(lambda before=before: endless.metric(left) > before)
            assert len(queue) == 0
            assert queue.unanswered == 1
    until(lambda: queue.unanswered == 0)
    assert caplog.text == ""


def test_who_leaves_before_the_request_is_sent_is_no_defect(classes: Served, caplog: pytest.LogCaptureFixture) -> None:
    left = 'seqlab_requests_total{route="/predict",status="499"}'
    before = classes.metric(left)
    with classes.connect() as connection:
        connection.sendall(UNFINISHED)
    until(lambda: classes.metric(left) == before + 1)
    assert caplog.text == ""


def test_a_stream_on_which_the_model_fails_says_so(
    endless: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, steps = endless.service.predictor.task.model, count()
    step = model.step

    def broken(*given: Any) -> Any:
        if next(steps) == 10:  # when something has been told
            raise RuntimeError(CANARY)
        return step(*given)

    failed = 'seqlab_requests_total{route="/v1/completions",status="500"}'
    before = endless.metric(failed)
    monkeypatch.setattr(model, "step", broken)
    found = endless.post("/v1/completions", {"prompt": CANARY, "stream": True})
    assert found.status == 200
    *_, last = found.body.decode().strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["status"] == 500
    assert "[DONE]" not in found.body.decode()
    until(lambda: endless.metric(failed) == before + 1)
    assert len(caplog.records) == 1
    assert "in broken" in caplog.text
    assert CANARY not in caplog.text


def test_who_does_not_read_is_cut_off(bundles: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with serving(bundles["language_modeling"], endless=True, new_tokens=ENDLESS, write_s=0.3) as served:
        (accepting,) = served.server.servers[0].sockets
        accepting.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, 4096)  # of those it accepts, too
        with socket_module.socket() as connection:
            connection.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", served.port))
            writing(served, stream=True, connection=connection)
            served.service.close()
            served.thread.join(20)
            assert not served.thread.is_alive()
            assert served.service.queue.unanswered == 0
    assert caplog.text == ""


def until(true: Any, seconds: float = 20) -> None:
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds
        time.sleep(0.005)


def test_hostile_requests_get_their_status_and_leave_no_trace(
    classes: Served, caplog: pytest.LogCaptureFixture
) -> None:
    normal = {"inputs": [{"text": "a film", "id": 1}]}
    before = classes.post("/predict", normal).body
    memory = psutil.Process().memory_info().rss
    for status, (method, path, *rest) in HOSTILE:
        found = classes.ask(method, path, *rest)
        assert found.status == status, (method, path, rest[:1], found)
        refused(found, status)
    for status, data in RAW:
        refused(classes.raw(data), status)
    for status in (400, 408, 431):
        assert classes.metric(f'seqlab_requests_total{{route="other",status="{status}"}}') > 0
    assert classes.metric('seqlab_requests_total{route="/predict",status="408"}') > 0
    assert all(record.levelno < logging.ERROR for record in caplog.records)
    assert psutil.Process().memory_info().rss - memory < 50e6
    assert classes.post("/predict", normal).body == before
    assert CANARY not in caplog.text
    assert CANARY not in classes.get("/metrics").body.decode()


def test_what_a_writer_refuses(writer: Served) -> None:
    for status, content in (
        (422, {"prompt": 3}),
        (422, {"prompt": []}),
        (422, {"prompt": "a", "n": 2}),
        (422, {"prompt": "a", CANARY: 1}),
        (422, {"prompt": "a", "temperature": -1}),
        (422, {"prompt": ["a", "b"], "stream": True}),
        (413, {"prompt": ["a"] * 33}),
        (413, {"prompt": "a", "max_tokens": 3001}),
        (404, {"prompt": "a", "model": f"../{CANARY}"}),
    ):
        refused(writer.post("/v1/completions", content), status)
    refused(writer.post("/predict", {"text": "a", "decoding": {"width": 5}}), 413)
    refused(writer.post("/predict", {"text": "a", "decoding": {"n_best": 2}}), 422)


def test_a_setting_that_is_wrong_is_told_by_its_name_and_place(writer: Served, classes: Served) -> None:
    for path, content, param, message in (
        ("/predict", {"text": "a", "decoding": {CANARY: 3}}, None, "decoding: an unknown setting; "
         "there are max_tokens, temperature, top_k, top_p, width, length_penalty, n_best"),
        ("/predict", {"text": "a", "decoding": {"width": "x"}}, None, "decoding.width: expected a whole number"),
        ("/predict", {"text": "a", "decoding": 3}, None, "decoding: expected an object"),
        ("/predict", {"text": "a", "seed": -1}, None, "seed: expected at least 0"),
        ("/v1/completions", {"prompt": "a", "n": 2}, "n", "n: expected 1"),
        ("/v1/completions", {"prompt": "a", "stop": CANARY}, "stop", "stop: expected null"),
        ("/v1/completions", {"prompt": "a", "echo": True}, "echo", "echo: expected false"),
        ("/v1/completions", {"prompt": "a", "temperature": CANARY}, "temperature", "temperature: expected a number"),
        ("/v1/completions", {"prompt": "a", "top_p": 0}, "top_p", "top_p: expected more than 0"),
        ("/v1/completions", {"prompt": "a", "top_p": 1.5}, "top_p", "top_p: expected at most 1"),
        ("/v1/completions", {"prompt": "a", "stream": 1}, "stream", "stream: expected true or false"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 5000}, "max_tokens", "max_tokens: at most 3000"),
        ("/v1/completions", {"prompt": 3}, "prompt", "prompt: expected a text, or a list of texts"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt", "prompt: expected a text, or a list of texts"),
        ("/v1/completions", {}, "prompt", "prompt: expected a value, and there is none"),
        ("/v1/completions", {"prompt": []}, "prompt", "no item: expected at least one"),
        ("/v1/completions", {"prompt": ["a", "b"], "stream": True}, "stream", "stream: one prompt at a time"),
        ("/v1/completions", {"prompt": "a", "model": CANARY}, "model", "there is no such model; see /v1/models"),
        ("/v1/completions", {"prompt": "a", "stream_options": {CANARY: 1}}, "stream_options",
         "stream_options: an unknown setting; there are include_usage"),
        ("/v1/completions", {"prompt": "a", "stream_options": {"include_usage": 1}}, "stream_options.include_usage",
         "stream_options.include_usage: expected true or false"),
        ("/v1/completions", [CANARY], None, "the body: expected an object"),
    ):  # fmt: skip
        told = writer.post(path, content).json["error"]
        assert told["message"] == message
        assert ("param" in told) == path.startswith("/v1")
        assert told.get("param") == param
    for wrong in ({CANARY: 3}, {"width": 3}, CANARY):
        told = classes.post("/predict", {"text": "a", "decoding": wrong})
        refused(told, 422)
        assert told.json["error"]["message"].startswith("decoding: this model writes nothing")


def test_a_pair_is_refused_where_single_texts_are_read(tmp_path: Path) -> None:
    with serving(save(tmp_path, "classification", fields=("text", "label"))) as served:
        assert served.post("/predict", {"text": "a", "pair": None}).status == 200
        found = served.post("/predict", {"text": "a", "pair": CANARY})
        refused(found, 422)
        assert found.json["error"]["message"].startswith("item 1: the model reads single texts")
        item = served.get("/openapi.json").json["components"]["schemas"]["Item"]
        assert item["properties"]["pair"] == {"type": "null"}


def test_a_defect_of_ours_is_told_by_its_place(
    classes: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(classes.service.predictor, "read", broken)
    found = classes.post("/predict", {"text": CANARY})
    refused(found, 500)
    monkeypatch.undo()
    monkeypatch.setattr(classes.service, "to_json", broken)
    refused(classes.post("/predict", {"text": CANARY}), 500)
    until(lambda: len(caplog.records) == 2)  # each once; the log comes after the answer
    assert caplog.text.count("in broken") == 2
    assert CANARY not in caplog.text


def test_a_header_has_so_much_room_however_it_comes(classes: Served) -> None:
    for kib, status in ((63, 200), (65, 431)):
        header = b"GET /live HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * kib * 1024 + b"\r\n\r\n"
        for size in (len(header), 8192):
            with classes.connect() as connection:
                for place in range(0, len(header), size):
                    connection.sendall(header[place : place + size])
                    time.sleep(0.002)
                found = reply(connection)
            assert found is not None
            assert found.status == status, (kib, size)


def test_a_request_behind_another_has_to_be_sent_in_time_too(classes: Served) -> None:
    with classes.connect() as connection:
        connection.settimeout(10)
        connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n" + UNFINISHED)
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [part[:3] for part in told.split(b"HTTP/1.1 ")[1:]] == [b"200", b"408"]


def test_what_is_no_http_behind_an_early_answer_does_not_hold_the_end(bundles: dict[str, Path]) -> None:
    with serving(bundles["classification"]) as served, served.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        refused(reply(connection), 415)
        (protocol,) = served.server.server_state.connections
        connection.sendall(b"zz\r\n")
        until(lambda: protocol.refused)  # type: ignore[union-attr]
        served.service.close()
        served.thread.join(4)
        assert not served.thread.is_alive()


def test_too_many_connections_are_told_so(bundles: dict[str, Path]) -> None:
    with serving(bundles["classification"], connections=2) as served, ExitStack() as stack:
        first, _ = (stack.enter_context(served.connect()) for _ in range(2))
        for path in ("/live", "/ready", "/metrics"):
            assert served.get(path).status == 200
        found = served.post("/predict", {"text": "a"})
        refused(found, 503)
        assert int(found.headers["retry-after"]) >= 1
        first.sendall(b"GET /about HTTP/1.1\r\nhost: localhost\r\n\r\n")  # was there before
        told = reply(first)
        assert told is not None
        assert told.status == 200
        for _ in range(RESERVE):
            stack.enter_context(served.connect())
        assert served.raw(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n") is None
        stack.close()
        until(lambda: not served.server.server_state.connections)
        assert served.post("/predict", {"text": "a"}).status == 200


def test_a_failing_model_is_told_once(
    classes: Served, writer: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(classes.service.predictor, "examples", broken)
    refused(classes.post("/predict", {"inputs": [{"text": CANARY}] * 3}), 500)
    assert len(caplog.records) == 1
    monkeypatch.setattr(writer.service.predictor.task.model.head, "scores", broken)
    for stream in (False, True):
        found = writer.post("/v1/completions", {"prompt": CANARY, "stream": stream})
        refused(found, 500)
        assert found.json["error"]["message"] == "the model failed"
    assert len(caplog.records) == 3
    assert CANARY not in caplog.text
    assert classes.metric("seqlab_model_failures_total") == 3


def test_who_is_refused_or_too_late_is_not_read_or_computed(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(bundles["classification"], queue=2, items=2) as served, ThreadPoolExecutor(2) as pool:
        go, read, begun = threading.Event(), served.service.predictor.read_first, list[int]()

        def slowly(items: Any) -> Any:
            begun.append(len(items))
            go.wait(20)
            return read(items)

        monkeypatch.setattr(served.service.predictor, "read_first", slowly)
        first = pool.submit(served.post, "/predict", {"inputs": [{"text": "a"}, {"text": "b"}]})
        until(lambda: begun == [2])
        refused(served.post("/predict", {"text": CANARY}), 429)  # both places are kept for what is still being read
        assert begun == [2]
        go.set()
        assert first.result(20).status == 200
        refused(served.post("/predict", {"inputs": [{"text": CANARY}, {"words": [CANARY]}]}), 422)
        assert served.post("/predict", {"inputs": [{"text": "a"}, {"text": "b"}]}).status == 200  # they are given back

    with serving(bundles["classification"], item_tokens=20, request_tokens=30) as served:
        monkeypatch.setattr(served.service.predictor, "read_first", lambda items: pytest.fail("is tokenised"))
        refused(served.post("/predict", {"text": CANARY * 5}), 413)  # 25 letters are more than 20 tokens of bytes
        refused(served.post("/predict", {"inputs": [{"text": CANARY * 3}] * 3}), 413)

    computed = list[int]()
    with serving(bundles["classification"], deadline_s=0.2) as served:
        answers, read = served.service.predictor.answers, served.service.predictor.read_first
        monkeypatch.setattr(served.service.predictor, "read_first", lambda items: (time.sleep(0.3), read(items))[1])
        monkeypatch.setattr(served.service.predictor, "answers", lambda asked: (computed.append(1), answers(asked))[1])  # type: ignore[func-returns-value]  # fmt: skip
        refused(served.post("/predict", {"text": CANARY}), 503)  # it has come in time, and was read too late
    assert computed == []


def test_slow_and_idle_clients_are_closed_and_disturb_nobody(classes: Served, caplog: pytest.LogCaptureFixture) -> None:
    process = psutil.Process()
    before = process.num_fds()
    slow = [
        b"POST /predict HTT",
        b"",
        UNFINISHED,
    ]
    begin, connections = time.monotonic(), [classes.connect() for _ in range(12)]
    idle = classes.connect()
    idle.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert reply(idle) is not None
    ends: dict[int, float] = {}

    def drip(number: int, connection: socket_module.socket) -> None:
        try:
            for byte in slow[number % 3]:
                connection.sendall(bytes([byte]))
            for _ in range(100):
                connection.sendall(b"a" if number % 3 != 1 else b"")
                connection.settimeout(0.1)
                try:
                    if connection.recv(1) == b"":
                        break
                except TimeoutError:
                    pass
        except OSError:
            pass
        ends[number] = time.monotonic() - begin

    threads = [threading.Thread(target=drip, args=pair) for pair in enumerate([*connections, idle])]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert classes.post("/predict", {"text": "a"}).status == 200
    for connection in (*connections, idle):
        connection.close()
    assert len(ends) == 13
    assert max(ends.values()) < 1 + 1 + 1  # read_s, and some for a busy machine
    assert min(ends.values()) > 0.5
    until(lambda: process.num_fds() <= before + 1)
    assert caplog.text == ""


def test_overload_is_refused_and_what_is_accepted_is_right(bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["classification"])
    texts = ["film " * (i % 40) for i in range(300)]
    alone = predictor.predict([{"text": text} for text in texts])
    with serving(bundles["classification"], ServerBatching(tokens=400, rows=8, wait_ms=1), queue=8, items=8) as served:
        depths, sizes = list[int](), list[float]()
        examples = served.service.predictor.examples

        def slowly(asked: Any) -> Any:
            depths.append(len(served.service.queue))
            sizes.append(sum(one.tokens for one in asked))
            time.sleep(0.005)
            return examples(asked)

        served.service.predictor.examples = slowly  # type: ignore[method-assign]
        with ThreadPoolExecutor(24) as pool:
            found = list(pool.map(lambda i: served.post("/predict", {"text": texts[i], "id": i}), range(300)))
        statuses = [one.status for one in found]
        assert set(statuses) == {200, 429}
        for i, one in enumerate(found):
            if one.status == 200:
                assert one.json["id"] == i
                assert one.json["probabilities"] == pytest.approx(alone[i]["probabilities"], abs=1e-5)
            else:
                assert int(one.headers["retry-after"]) >= 1
        assert max(depths) <= 8
        assert max(sizes) <= 400
        assert len(sizes) < statuses.count(200)  # some shared a batch
        assert served.metric("seqlab_unanswered_items") == 0
        assert served.metric('seqlab_requests_total{route="/predict",status="429"}') == statuses.count(429)


def test_health_metrics_and_pages_need_no_internet(classes: Served) -> None:
    assert classes.get("/live").json == {"status": "live"}
    assert classes.get("/ready").json == {"status": "ready"}
    about = classes.get("/about").json
    assert (about["task"], about["kind"]) == ("Classification", "classification, one class")
    assert about["labels"] == ["bad", "good"]
    assert b"# TYPE seqlab_requests_total counter" in classes.get("/metrics").body
    paths = classes.get("/openapi.json").json["paths"]
    assert {"/predict", "/live", "/ready", "/metrics"} <= paths.keys()
    for path in ("/", "/docs"):
        found = classes.get(path)
        assert found.status == 200
        assert not re.search(rb"(src|href)\s*=\s*.?(https?:)?//|@import|url\(", found.body)


def test_a_browser_runs_nothing_in_the_pages_but_what_stands_there(classes: Served) -> None:
    for path in ("/", "/docs"):
        found = classes.get(path)
        policy = dict(part.split(" ", 1) for part in found.headers["content-security-policy"].split("; "))
        for kind in ("script", "style"):
            (block,) = re.findall(f"<{kind}>(.*?)</{kind}>".encode(), found.body, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(block).digest()).decode()
            assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    for told in (classes.get("/"), classes.post("/predict", {"text": "a"}), classes.get("/nowhere")):
        assert told.headers["x-content-type-options"] == "nosniff"
        assert told.headers["referrer-policy"] == "no-referrer"
        assert told.headers["cache-control"] == "no-store"


def test_a_server_for_its_own_machine_is_asked_by_its_names_alone() -> None:
    for host, names in (("127.0.0.1", ("127.0.0.1", "localhost", "[::1]")), ("0.0.0.0", ())):
        with listen(host, 0) as listening:
            assert hosts_of(listening) == names


def test_a_port_that_is_taken_is_told_so() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(InputError) as refusal, listen("127.0.0.1", port):
            pass
    message = f"port={port} of 127.0.0.1 is taken by another program: set another; port=0 is any that is free"
    assert str(refusal.value) == message


def test_drained_it_answers_what_it_accepted_and_nothing_new(bundles: dict[str, Path]) -> None:
    with serving(bundles["language_modeling"]) as served, ThreadPoolExecutor(6) as pool:
        drained, examples = threading.Event(), served.service.predictor.examples

        def later(asked: Any) -> Any:
            assert drained.wait(20)
            return examples(asked)

        served.service.predictor.examples = later  # type: ignore[method-assign]
        begun = [pool.submit(served.post, "/predict", {"text": "a"}) for _ in range(6)]
        until(lambda: served.service.queue.unanswered == 6)
        assert served.get("/ready").status == 200
        served.server.handle_exit(15, None)
        assert served.get("/ready").status == 503
        assert served.get("/live").status == 200
        refused(served.post("/predict", {"text": CANARY}), 503)
        drained.set()
        assert [one.result(60).status for one in begun] == [200] * 6
        served.thread.join(10)
        assert not served.thread.is_alive()
        assert served.server.late is not None
        assert served.server.late.is_alive()  # a thread that is stuck may still hold the process


def test_a_model_that_is_stuck_does_not_hold_the_process(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, stuck = list[int](), threading.Event()
    monkeypatch.setattr(server_module.os, "_exit", left.append)
    with serving(bundles["classification"], drain_s=0.3) as served, ThreadPoolExecutor(1) as pool:
        served.service.predictor.examples = lambda asked: stuck.wait(20)  # type: ignore[method-assign]
        waiting = pool.submit(served.post, "/predict", {"text": "a"})
        until(lambda: served.service.queue.unanswered == 1)
        served.server.handle_exit(15, None)
        until(lambda: left == [1], 5)
        served.server.handle_exit(15, None)  # again: at once
        assert left == [1, 143]
        stuck.set()
        assert waiting.result(20).status == 500


def test_a_model_whose_thread_has_ended_ends_the_process(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(asked: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(server_module.os, "_exit", lambda code: None)
    service = Service(
        seqlab.load(bundles["classification"]), ServerBatching(wait_ms=1), ServerLimits(deadline_s=0.5), "tiny"
    )
    service.predictor.examples = killed  # type: ignore[method-assign]
    listening = listen("127.0.0.1", 0)
    served = Served(listening.getsockname()[1], service, Server(service, listening), service.thread)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(served.post, "/predict", {"text": "a"})
        with pytest.raises(SystemExit) as ended:
            serve(service, listening)
        assert ended.value.code == 1
        refused(waiting.result(20), 503)


def test_nobody_is_told_of_what_they_did_not_send(writer: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer.service, "decoding", Decoding(5, temperature=0.8, top_k=3))
    assert writer.service.how({"temperature": 0}) == Decoding(5)
    assert writer.service.how({"width": 3, "n_best": 2}) == Decoding(5, width=3, n_best=2)
    assert writer.service.how({"top_k": 2}) == Decoding(5, temperature=0.8, top_k=2)
    assert writer.post("/v1/completions", {"prompt": "a", "temperature": 0}).status == 200
    with pytest.raises(ValueError, match="top_k=2"):
        writer.service.how({"temperature": 0, "top_k": 2})
    monkeypatch.setattr(writer.service, "decoding", Decoding(5, width=4, n_best=2))
    assert writer.service.how({"temperature": 1.0}) == Decoding(5, temperature=1.0)
    assert writer.service.how({"temperature": 0}) == Decoding(5, width=4, n_best=2)
    assert writer.post("/v1/completions", {"prompt": "a"}).status == 200


def test_what_clients_of_openai_send_and_look_for(writer: Served) -> None:
    nulls = ("max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "echo", "logit_bias", "user")
    assert writer.post("/v1/completions", {"prompt": "a", **dict.fromkeys(nulls)}).status == 200
    refusal = writer.post("/v1/completions", {"prompt": 3}).json["error"]
    assert (refusal["type"], refusal["param"], refusal["code"]) == ("invalid_request_error", "prompt", None)
    (model,) = writer.get("/v1/models").json["data"]
    assert writer.get("/v1/models/tiny").json == model
    assert isinstance(model["created"], int)
    refused(writer.get(f"/v1/models/{CANARY}/a"), 404)
    asked = {"prompt": "a film", "seed": 4, "max_tokens": 4}
    refused(writer.post("/v1/completions", {**asked, "stream_options": {"include_usage": True}}), 422)
    streamed = writer.post("/v1/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}})
    *parts, last, _ = (part.removeprefix("data: ") for part in streamed.body.decode().strip().split("\n\n"))
    assert json.loads(last)["choices"] == []
    assert json.loads(last)["usage"] == writer.post("/v1/completions", asked).json["usage"]
    assert all(json.loads(part)["usage"] is None for part in parts)


def test_openapi_tells_what_is_taken_and_answered(classes: Served, writer: Served, bundles: dict[str, Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema")

    def valid(described: Any, schema: Any, content: Any) -> bool:
        return bool(jsonschema.Draft202012Validator({**described, **schema}).is_valid(content))

    for served in (classes, writer):
        described = served.get("/openapi.json").json
        for path, methods in described["paths"].items():
            ((method, route),) = methods.items()
            assert "default" in route["responses"]
            if method == "post":
                taken = route["requestBody"]["content"]["application/json"]
                wrong = {**taken["example"], CANARY: 1}
                refusal = route["responses"]["422"]["content"]["application/json"]["schema"]
                assert valid(described, taken["schema"], taken["example"])
                assert not valid(described, taken["schema"], wrong)
                assert valid(described, refusal, served.post(path, wrong).json)
                found = served.post(path, taken["example"])
            else:
                found = served.get(path.format(model="tiny"))
            assert found.status == 200
            told = route["responses"]["200"]["content"]
            assert found.headers["content-type"].partition(";")[0] in told
            if "application/json" in told:
                assert told["application/json"]["schema"]
                assert valid(described, told["application/json"]["schema"], found.json), path
    for name, folder in bundles.items():
        service = Service(seqlab.load(folder), ServerBatching(), ServerLimits())
        guard: Any = application(service)
        described, item = guard.app.openapi(), json.loads(service.predictor.example)
        (answer,) = service.predictor.predict([item])
        for schema, content in (("Request", item), ("Request", {"inputs": [item], "seed": 3}), ("Answer", answer)):
            assert valid(described, {"$ref": f"#/components/schemas/{schema}"}, content), (name, content)
        for content in ({}, {"inputs": [item], CANARY: 1}, {"inputs": []}, {**item, "seed": "x"}, {"inputs": [{}]}):
            assert not valid(described, {"$ref": "#/components/schemas/Request"}, content), (name, content)
