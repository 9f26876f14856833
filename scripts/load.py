"""python scripts/load.py [model=lstm|transformer] [run=PATH] [seconds=25] [clients=64] [rounds=3]: servers under load.

Three servers serve a classifier in turn, each on one core, the clients on another: seqlab's own; one that answers first
come first served in padded batches of 32, by the same kernels (`padded_peer.py`); and one that does so in batches of
64. Texts have 1 to 512 tokens, as many of each length. Every client asks again when it is answered. The first 5
seconds do not count; all take turns `rounds` times, and of each figure the median is told, with the least and the most.
Every answer is judged. `model=` measures an untrained model of that kind, of the default size, `run=` one of your own.

`requests=2000 queue=32` asks so many instead, of seqlab's own server with a queue that is too short, beside 100 clients
(`leavers=`) that leave while they wait. Then each request gets 200, and the answer that it gets alone, or 429; never do
more wait than may, nor has a batch more tokens, nor is anybody computed who left while waiting; memory grows by at most
100 MB; of those answered 99 % are so within `bound_s=10`; and SIGTERM ends the server with exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from prometheus_client import Gauge

import seqlab
from padded_peer import Padded
from seqlab import bundle
from seqlab.bundle import Bundle
from seqlab.config.instantiate import instantiate
from seqlab.errors import CheckFailedError
from seqlab.inference.predictor import Predictor
from seqlab.server.listen import listen, serve
from seqlab.server.queue import Budget, Job, Queue
from seqlab.server.service import ServerBatching, ServerLimits, Service
from seqlab.text.tokenizer_training import Bytes

LONGEST = 512  # tokens
TEXTS = 1024
UNCOUNTED_S = 5.0
ROUNDING = 1e-5
SERVERS = {
    "ragged": ServerBatching(),
    "padded, batches of 32": ServerBatching(tokens=10**9, rows=32),
    "padded, batches of 64": ServerBatching(tokens=10**9, rows=64),
}
SETTINGS: dict[str, Any] = {
    "run": "", "model": "lstm", "seconds": 25.0, "clients": 64, "rounds": 3, "requests": 0, "queue": 256,
    "leavers": 100, "bound_s": 10.0,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "lstm": {
        "_target_": "seqlab.models.encoders.RecurrentEncoder",
        "cell": {"_target_": "seqlab.layers.recurrent.cells.LSTMCell", "_partial_": True},
    },
    "transformer": {
        "_target_": "seqlab.models.encoders.TransformerEncoder",
        "positions": {"_target_": "seqlab.layers.positions.RotaryPositions", "_partial_": True},
    },
}


def require(holds: bool, claim: str) -> None:
    if not holds:
        raise CheckFailedError(f"it does not hold that {claim}")


# ------------------------------------------------------------------ the server, in a process of its own


class Watched(Queue):
    """Counts those who had left, and whose turn came all the same."""

    wrong = 0

    def take(self, budget: Budget, wait_s: float, beside: bool = False) -> list[Job]:
        batch = super().take(budget, wait_s, beside)
        self.wrong += sum(job.abandoned for job in batch)
        return batch


def server(given: argparse.Namespace) -> None:
    """Answers until SIGTERM."""
    predictor = (Padded if "padded" in given.serve else Predictor)(bundle.load(given.run))
    limits = ServerLimits(queue=given.queue, items=1, connections=10_000)
    service = Service(predictor, SERVERS[given.serve], limits, "load")
    service.queue = watched = Watched(given.queue, service.metrics.waited)
    wrong = Gauge("load_left_and_taken", "Items computed for nobody.", registry=service.metrics.registry)
    wrong.set_function(lambda: watched.wrong)
    service.warm_up()
    serve(service, listen("127.0.0.1", 0))


@contextmanager
def served(given: argparse.Namespace, kind: str, core: int) -> Iterator[tuple[psutil.Process, int]]:
    """The process, on that core alone, and its port; in the end it must leave in order."""
    words = [f"{name}={getattr(given, name)}" for name in SETTINGS]
    command = ["taskset", "-c", str(core), sys.executable, __file__, *words, "--serve", kind]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            require("http" in line, "the server starts")
            on = {cores_of(thread) for thread in Path(f"/proc/{process.pid}/task").iterdir()}
            require(on == {str(core)}, f"the server is on core {core} alone: its threads are on {on}")
            yield psutil.Process(process.pid), int(line.rpartition(":")[2])
            process.terminate()
            require(process.wait(60) == 0, "SIGTERM ends the server with exit code 0")
        except BaseException:
            process.kill()
            raise


def cores_of(process: Path) -> str:
    """On which a thread may run, as Linux says."""
    (line,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("Cpus_allowed_list"))
    return line.split()[1]


def untrained(folder: Path, encoder: dict[str, Any]) -> Path:
    """The bundle of a classifier with random weights, which costs what a trained one does."""
    preprocessor = instantiate(
        form_node := {"_target_": "seqlab.data.preprocessing.classification.ClassificationPreprocessor"}, "form"
    )
    model = {"_target_": "seqlab.models.classifier.Classifier", "answer": "one"}
    task_node = {"_target_": "seqlab.tasks.classification.Classification", "answer": "one"}
    specification: dict[str, Any] = {
        "form": form_node,
        "task": {**task_node, "model": {**model, "encoder": {**encoder, "causal": False}}},
    }
    records = {"text": ["a fine film", "an awful film"], "label": ["good", "bad"]}
    vocabularies = preprocessor.learn(pa.table({field: records[field] for field in preprocessor.fields}), Bytes())
    task = bundle.build(specification["task"], bundle.build_context(preprocessor, vocabularies))
    bundle.save(folder, specification, Bundle(task, preprocessor, vocabularies))
    return folder


# ------------------------------------------------------------------ the clients


def texts_of(predictor: Predictor, number: int = TEXTS) -> list[str]:
    """Texts of 1 to 512 tokens, the end mark that begins them among these; says how many have how many."""
    tokenizer, draw = predictor.vocabularies.tokenizer, random.Random(0)
    words = ["a", "film", "that", "is", "as", "good", "as", "it", "is", "long", "and", "then", "some", "more"]
    ids = tokenizer.encode([" ".join(draw.choices(words, k=4 * LONGEST))])[0]
    starts = [draw.randrange(len(ids) - LONGEST) for _ in range(number)]
    texts = [tokenizer.decode(ids[start : start + draw.randint(0, LONGEST - 1)]) for start in starts]
    asked = predictor.read([{"text": text} for text in texts])
    require(all(one.tokens == one.given <= LONGEST for one in asked), f"texts have {LONGEST} tokens, and none is cut")
    counts = Counter((one.tokens - 1) // 64 for one in asked)
    print("texts of", ", ".join(f"{64 * i + 1}-{64 * i + 64} tokens: {counts[i]}" for i in sorted(counts)))
    return texts


def alike(told: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two answers are the same up to rounding."""
    difference = max(abs(told["probabilities"][name] - p) for name, p in right["probabilities"].items())
    return difference <= ROUNDING and told["label"] == right["label"]


@dataclass(frozen=True)
class Reply:
    """number of what was asked; when, and when it was answered, in seconds; and the answer."""

    number: int
    asked: float
    answered: float
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(port: int, head: str, body: bytes = b"", patience_s: float | None = None) -> Reply:
    """One request on a connection of its own.

    Raises:
        TimeoutError: there was no answer within `patience_s`, and so the client has left.
    """
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [
            f"{head} HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience_s)
        first, *rest = answer.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest)
        content = await reader.readexactly(int(headers["content-length"]))
        return Reply(-1, begin, time.perf_counter(), int(first.split()[1]), headers, content)
    finally:
        writer.close()


async def asking(given: argparse.Namespace, port: int, texts: Sequence[str]) -> list[Reply]:
    """What all clients hear, for so many seconds, or of so many requests; whoever is answered asks again."""
    replies = list[Reply]()
    end = time.perf_counter() + given.seconds
    numbers = iter(range(given.requests or sys.maxsize))

    async def client() -> None:
        while (given.requests or time.perf_counter() < end) and (number := next(numbers, None)) is not None:
            body = json.dumps({"text": texts[number % len(texts)], "id": number}).encode()
            reply = await ask(port, "POST /predict", body)
            replies.append(Reply(number, *list(vars(reply).values())[1:]))

    await asyncio.gather(*(client() for _ in range(given.clients)))
    return replies


def judge(replies: Sequence[Reply], expected: Sequence[dict[str, Any]], statuses: set[int]) -> None:
    """Whether every answer is right."""
    require({one.status for one in replies} <= statuses, f"all are answered with one of {statuses}")
    for one in replies:
        if one.status == 200:
            told = json.loads(one.body)
            require(told["id"] == one.number, "each answer is that to its own question")
            require(alike(told, expected[one.number % len(expected)]), "what was asked is answered as it is alone")
        else:
            require(int(one.headers["retry-after"]) >= 1, "who is refused hears when to come back")


# ------------------------------------------------------------------ what is measured


def compare(given: argparse.Namespace, texts: Sequence[str], expected: Sequence[dict[str, Any]], core: int) -> None:
    """A table of all servers."""
    peer, some = Padded(bundle.load(given.run)), 64
    for told, right in zip(peer.predict([{"text": text} for text in texts[:some]]), expected[:some], strict=True):
        require(alike(told, right), "the padded peer answers the same")
    figures: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in SERVERS}
    for _ in range(given.rounds):
        for kind in SERVERS:
            with served(given, kind, core) as (_, port):
                begin = time.perf_counter()
                replies = asyncio.run(asking(given, port, texts))
            judge(replies, expected, {200})
            counted = [one for one in replies if one.asked >= begin + min(UNCOUNTED_S, given.seconds / 2)]
            seconds = max(one.answered for one in counted) - min(one.asked for one in counted)
            p50, p99 = (1000 * np.quantile([one.answered - one.asked for one in counted], q) for q in (0.5, 0.99))
            figures[kind].append((len(counted) / seconds, p50, p99))
    print("| served | requests/s | p50, ms | p99, ms |\n|---|---:|---:|---:|")
    for kind, rounds in figures.items():
        cells = [
            f"{statistics.median(row):.0f} ({min(row):.0f} to {max(row):.0f})" for row in zip(*rounds, strict=True)
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


async def crowd(
    given: argparse.Namespace, process: psutil.Process, port: int, texts: Sequence[str]
) -> tuple[list[Reply], list[dict[str, float]], int]:
    """What the clients hear; every 50 ms the server's metrics, and its memory as `rss`; and how many left."""
    scrapes, left, done = list[dict[str, float]](), 0, asyncio.Event()

    async def scrape() -> None:
        lines = (await ask(port, "GET /metrics")).body.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        scrapes.append({name: float(value) for name, value in pairs} | {"rss": process.memory_info().rss})

    async def watch() -> None:
        while not done.is_set():
            await scrape()
            await asyncio.sleep(0.05)

    async def leave(number: int) -> None:
        nonlocal left
        body = json.dumps({"text": texts[number % len(texts)]}).encode()
        while not done.is_set():
            try:
                await ask(port, "POST /predict", body, patience_s=0.02)
            except TimeoutError:
                left += 1
                return
            await asyncio.sleep(0.01)  # it was answered, or refused

    watching = asyncio.create_task(watch())
    leaving = asyncio.gather(*(leave(number) for number in range(given.leavers)))
    replies = await asking(given, port, texts)
    done.set()
    await asyncio.gather(watching, leaving)
    while not scrapes or scrapes[-1]["seqlab_unanswered_items"] > 0:
        await scrape()
    return replies, scrapes, left


def overload(given: argparse.Namespace, texts: Sequence[str], expected: Sequence[dict[str, Any]], core: int) -> None:
    """Whether a server that is asked too much stays whole."""
    with served(given, "ragged", core) as (process, port):
        before = process.memory_info().rss
        replies, scrapes, left = asyncio.run(crowd(given, process, port, texts))
    judge(replies, expected, {200, 429})
    require(sorted(one.number for one in replies) == list(range(given.requests)), "every request is answered once")
    last, waited = scrapes[-1], max(scrape["seqlab_queue_items"] for scrape in scrapes)
    require(waited <= given.queue, f"at most {given.queue} wait: {waited} did")
    budget = SERVERS["ragged"].tokens
    within, batches = last[f'seqlab_batch_tokens_bucket{{le="{float(budget)}"}}'], last["seqlab_batch_tokens_count"]
    require(within == batches, f"no batch has more than {budget} tokens")
    gone = last.get('seqlab_requests_total{route="/predict",status="499"}', 0)
    require(last["load_left_and_taken"] == 0, "nobody is computed who has left while waiting")
    require(not given.leavers or gone > 0, f"some left before they were answered, of {left} who tried")
    grown = (max(scrape["rss"] for scrape in scrapes) - before) / 1e6
    require(grown <= 100, f"memory grows by at most 100 MB: it grew by {grown:.0f}")
    seconds = [one.answered - one.asked for one in replies if one.status == 200]
    p50, p99 = (float(np.quantile(seconds, share)) for share in (0.5, 0.99))
    require(p99 <= given.bound_s, f"99 % are answered within {given.bound_s} s: {p99:.2f} s")
    print(
        f"{len(replies)} requests: {len(seconds)} answered as they are alone, the others refused; "
        f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms; at most {waited:.0f} waited; {gone:.0f} left; "
        f"memory {grown:+.0f} MB"
    )


def settings(words: Sequence[str]) -> dict[str, Any]:
    """Of what was typed, key=value, and of what was not."""
    typed = dict(word.split("=", 1) for word in words)
    return {name: type(value)(typed.pop(name, value)) for name, value in SETTINGS.items()} | {"unknown": typed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="key=value", help=" ".join(f"{name}=" for name in SETTINGS))
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    vars(given).update(settings(given.words))
    if given.unknown:
        parser.error(f"unknown: {', '.join(given.unknown)}")
    if given.serve:
        server(given)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("it wants two cores, one for the server and one for the clients")
    os.sched_setaffinity(0, cores[:1])
    require(cores_of(Path("/proc/self")) == str(cores[0]), f"the clients are on core {cores[0]} alone")
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        given.run = given.run or str(untrained(Path(folder) / "bundle", ENCODERS[given.model]))
        predictor = seqlab.load(given.run)
        texts = texts_of(predictor)
        expected = predictor.predict([{"text": text} for text in texts])
        (overload if given.requests else compare)(given, texts, expected, cores[-1])


if __name__ == "__main__":
    main()
