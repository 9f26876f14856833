"""R23 to R26: the real server among clients who are hostile, slow or too many, and at its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from client import JSON, Client, Reply
from hostile_files import change, put
from hostile_requests import CANARY, HOSTILE, RAW, UNFINISHED, body, refused
from seqlab import bundle
from serving_process import ServingProcess, serving_process
from tiny_bundles import save
from typing_words import REPOSITORY

pytestmark = pytest.mark.reliability

GROWTH = 50e6  # bytes
NORMAL = {"inputs": [{"text": "a film", "id": 1}, {"text": "no"}]}
SMALL = ("limits.body=20000", "limits.item_tokens=600", "limits.request_tokens=1000", "limits.read_s=1")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Standard error of a server, in which in the end there is nothing of what was asked, and no defect."""
    path = tmp_path / "log"
    yield path
    text = path.read_text()
    assert CANARY not in text
    assert "Traceback" not in text


def until(true: Callable[[], bool], seconds: float = 60) -> float:
    """Waits; how long, in seconds."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)
    return time.monotonic() - begin


# ---------------------------------------------------------------------------------------------------- R23: hostile

# Of the first the body is larger than limits.body; the others come to be read.
LARGE = [
    (413, body({"text": CANARY * 1_000_000})),
    (413, body({"text": "a" * 999_000})),  # as many tokens
    (413, body({"inputs": [{"text": "a" * 30_000}] * 32})),
    (413, body({"inputs": [{"words": [CANARY]}] * 10_000})),
    (422, body({"inputs": [{CANARY: CANARY * 5_000}] * 32})),
    (422, body({"text": "a", "top_k": [[]] * 100_000})),
    (400, body("[" * 999_000)),
    (400, body('{"text": "' + "\\udc00" * 100_000 + '"}')),
    (400, body('{"text": ' + "9" * 900_000 + "}")),
]


def judge(server: ServingProcess, hostile: list[tuple[int, tuple[str, ...]]], raw: list[tuple[int, bytes]]) -> None:
    before, memory, largest = server.post("/predict", NORMAL).body, server.memory, 0
    ask: list[tuple[int, Callable[[], Reply | None]]] = [(code, partial(server.ask, *what)) for code, what in hostile]
    ask += [(code, partial(server.raw, data)) for code, data in raw]
    for status, asked in ask:
        found = asked()
        assert found is not None
        assert found.status == status, (str(asked.args)[:200], found)  # type: ignore[attr-defined]
        refused(found, status)
        largest = max(largest, len(found.body))
    growth = server.memory - memory
    print(f"\nR23: {len(ask)} requests, the largest error {largest} bytes, memory {growth / 1e6:+.1f} MB")
    assert server.post("/predict", NORMAL).body == before
    assert growth <= GROWTH


def test_r23_hostile_requests(classifier: Path, log: Path) -> None:
    assert len(HOSTILE) + len(RAW) >= 45
    with serving_process(classifier, log, *SMALL) as server:
        judge(server, HOSTILE, RAW)


def test_r23_large_hostile_requests(classifier: Path, log: Path) -> None:
    with serving_process(classifier, log) as server:
        judge(server, LARGE, [])


# ------------------------------------------------------------------------------------------------------- R24: slow

READ_S, SOME_S = 5.0, 1.0
HEAD = UNFINISHED.partition(b"\r\n")[0]
LIVE = b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def held(client: Client, begin: bytes, drop: bytes) -> float:
    """Seconds until the server closes on somebody who begins like this, and then sends a byte a second, or none."""
    with client.connect() as connection:
        connection.settimeout(1)
        connection.sendall(begin)
        begun = time.monotonic()
        while time.monotonic() - begun < 30:
            try:
                while connection.recv(4096):
                    pass
                break
            except TimeoutError:
                connection.sendall(drop)
            except OSError:
                break
        return time.monotonic() - begun


def latencies(client: Client, enough: Callable[[int], bool]) -> list[float]:
    """Of a client who asks again when answered; milliseconds."""
    found = list[float]()
    while not enough(len(found)):
        begin = time.monotonic()
        assert client.post("/predict", NORMAL).status == 200
        found.append(1000 * (time.monotonic() - begin))
    return found


def test_r24_slow_and_idle_clients(classifier: Path, log: Path) -> None:
    with serving_process(classifier, log) as server, ThreadPoolExecutor(100) as pool:
        sockets = server.sockets
        quiet = latencies(server, lambda count: count >= 300)
        kinds = [(HEAD[:1], b"a")] * 25 + [(UNFINISHED, b"a")] * 25 + [(LIVE, b"")] * 50
        waiting = [pool.submit(held, server, *kind) for kind in kinds]
        until(lambda: server.sockets >= sockets + 100, 4)  # all are there at once
        meanwhile = latencies(server, lambda _: all(one.done() for one in waiting))
        ends = [one.result() for one in waiting]
        until(lambda: server.sockets == sockets, 5)
    p99, alone = np.quantile(meanwhile, 0.99), np.quantile(quiet, 0.99)
    print(
        f"\nR24: closed after {min(ends):.2f} to {max(ends):.2f} s; {len(meanwhile)} normal requests beside, p99 "
        f"{p99:.0f} ms, of {len(quiet)} alone {alone:.0f} ms"
    )
    assert min(ends) > READ_S - SOME_S
    assert max(ends) <= READ_S + SOME_S
    assert p99 <= max(2 * alone, 250)


# --------------------------------------------------------------------------------------------------- R25: overload


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"),
    reason="wants two cores and taskset: the server on one core, the clients on another",
)
def test_r25_overload() -> None:
    """scripts/load.py checks what is promised."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, REPOSITORY / "scripts/load.py", "requests=2000", "queue=32"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    print(f"\nR25: {done.stdout}{done.stderr}")
    assert done.returncode == 0


# ---------------------------------------------------------------------------------------------------- R26: the end

DRAIN_S = 10.0


@pytest.fixture
def endless(writer: Path, tmp_path: Path) -> Path:
    """A model that never writes an end mark, so that its texts are as long as they may be."""
    folder = Path(shutil.copytree(writer, tmp_path / "endless"))
    weights = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    weights["head.bias"][bundle.load(folder).vocabularies.written.end] = -1e4
    put(folder, "model.safetensors", safetensors.torch.save(weights))
    return folder


def written(client: Client, tokens: int) -> int:
    """How many tokens are answered."""
    found = client.post("/v1/completions", {"prompt": "a film", "max_tokens": tokens, "temperature": 0})
    assert found.status == 200, found
    assert found.json["choices"][0]["finish_reason"] == "length"
    return int(found.json["usage"]["completion_tokens"])


def test_r26_what_was_accepted_is_answered(endless: Path, log: Path) -> None:
    words = [
        "batching.rows=40",
        "batching.running_tokens=10000000",
        "limits.new_tokens=1000000",
        "limits.deadline_s=60",
    ]
    with serving_process(endless, log, *words) as server, ThreadPoolExecutor(60) as pool:
        begin = time.monotonic()
        written(server, 200)
        tokens = max(50, int(200 * 1.2 / (time.monotonic() - begin)))  # two waves in less than half of drain_s
        asked = [pool.submit(written, server, tokens) for _ in range(60)]
        until(lambda: (server.metric("seqlab_running_rows"), server.metric("seqlab_queue_items")) == (40, 20))
        server.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        until(lambda: server.get("/ready").status == 503, 5)
        unready = time.monotonic() - begin
        assert server.get("/live").status == 200
        refused(server.post("/v1/completions", {"prompt": "a"}), 503)
        answered = [one.result() for one in asked]
        code = server.process.wait(60)
        ended = time.monotonic() - begin
    print(f"\nR26: not ready after {unready:.2f} s, 60 texts of {tokens} tokens, ended after {ended:.2f} s with {code}")
    assert unready <= 0.5
    assert answered == [tokens] * 60
    assert code == 0
    assert ended <= DRAIN_S


STUCK = """from pathlib import Path
from threading import current_thread
from time import sleep
from seqlab.layers.recurrent.cells import LSTMCell

class Stuck(LSTMCell):
    def unroll(self, *given, **named):
        while Path(__file__).with_name(current_thread().name.partition("_")[0]).exists():
            sleep(0.1)
        return super().unroll(*given, **named)
"""


@pytest.mark.parametrize("thread", ["model", "attention"])
def test_r26_a_stuck_model_is_left(tmp_path: Path, log: Path, thread: str) -> None:
    """It is of the user's own, and sleeps for ever: for all, or where it is asked what it looked at."""
    folder, modules = save(tmp_path / "bundle", "classification", pooling="attention"), tmp_path / "modules"
    modules.mkdir()
    (modules / "stuck_cell.py").write_text(STUCK)
    change(folder, lambda told: told["task"]["model"]["encoder"]["cell"].update(part="stuck_cell:Stuck"))
    words = ["trust=stuck_cell", f"limits.drain_s={DRAIN_S}", "limits.deadline_s=5"]
    with serving_process(folder, log, *words, modules=[modules]) as server, ThreadPoolExecutor(1) as pool:
        assert server.post("/predict", {"text": "a", "attention": True}).status == 200
        (modules / thread).touch()
        waiting = pool.submit(server.raw, request({"text": "a", "attention": True}))
        if thread == "model":
            until(lambda: server.metric("seqlab_unanswered_items") == 1)
        else:
            refused(waiting.result(), 503)
        server.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        code = server.process.wait(60)
        ended = time.monotonic() - begin
        waiting.result()
    print(f"\nR26: {thread} stuck, ended after {ended:.2f} s with {code}")
    assert code == 1
    assert ended <= DRAIN_S + SOME_S


def request(content: object) -> bytes:
    text = json.dumps(content)
    return f"POST /predict HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


def test_r26_killed_and_started_again(classifier: Path, log: Path) -> None:
    """On the port that it had, while connections of the one that was killed are still there."""
    with ExitStack() as stack:
        with serving_process(classifier, log) as server:
            before = server.post("/predict", NORMAL).body
            connections = [stack.enter_context(server.connect()) for _ in range(20)]
            for connection in connections:
                connection.sendall(UNFINISHED)
            stop = threading.Event()
            asking = threading.Thread(target=ask_until, args=(server, stop))
            asking.start()
            time.sleep(0.3)
            server.process.kill()
            assert server.process.wait(10) == -signal.SIGKILL
            stop.set()
            asking.join()
        begin = time.monotonic()
        with serving_process(classifier, log, port=server.port) as again:
            assert again.get("/ready").status == 200
            ready = time.monotonic() - begin
            assert again.port == server.port
            assert again.post("/predict", NORMAL).body == before
    print(f"\nR26: killed, ready again after {ready:.2f} s")
    assert ready <= 10


def ask_until(client: Client, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            client.raw(request(NORMAL))
        except OSError:
            return
