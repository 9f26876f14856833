"""python scripts/load.py run=PATH [seconds=20] [clients=64]: a served classifier under load, ragged and padded.

Two servers in turn, each on one core, the clients on another: seqlab's own, and one that answers first come first
served in batches of 32, each padded to its longest (padding is read like text there: its cost is what counts, its
answers are not looked at). Texts have 1 to 512 tokens, as many of each length. Every client asks again when it is
answered.

`requests=2000 queue=32` asks so many instead, of a queue that is too short, with 100 clients that leave while they
wait; then each answer must be 200 or 429, be that to its own question, and equal the answer that it gets alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

import seqlab
from seqlab.serving.predictor import Asked, Predictor
from seqlab.serving.server import listen, serve
from seqlab.serving.service import Batching, Limits, Service

LONGEST = 512


class Padded(Predictor):
    """Reads all texts of a batch as if they were as long as its longest."""

    def answers(self, asked: Sequence[Asked], *rest: Any) -> list[dict[str, Any]]:
        longest = max(one.tokens for one in asked)
        return super().answers([self.padded(one, longest) for one in asked], *rest)

    def padded(self, one: Asked, longest: int) -> Asked:
        tokens = one.row.column("tokens").to_pylist()[0]
        tokens += [self.vocabularies.tokenizer.end] * (longest - len(tokens))
        row = one.row.set_column(
            one.row.schema.get_field_index("tokens"), "tokens", pa.array([tokens], one.row.schema.field("tokens").type)
        )
        row = row.set_column(row.schema.get_field_index("length"), "length", pa.array([longest], pa.int64()))
        return replace(one, row=row, tokens=longest)


def server(given: argparse.Namespace) -> None:
    """One of the two, in a process of its own."""
    predictor = seqlab.load(given.run)
    batching = Batching(wait_ms=given.wait_ms)
    if given.serve == "padded":
        predictor.__class__ = Padded
        batching = Batching(tokens=10**9, rows=32, wait_ms=given.wait_ms)
    service = Service(predictor, batching, Limits(queue=given.queue, connections=10_000), "load")
    service.warm_up()
    serve(service, listen("127.0.0.1", 0))


def texts_of(predictor: Predictor, number: int) -> list[str]:
    """Texts of 1 to 512 tokens, the end mark that begins them among these."""
    tokenizer, draw = predictor.vocabularies.tokenizer, random.Random(0)
    words = ["a", "film", "that", "is", "as", "good", "as", "it", "is", "long", "and", "then", "some", "more"]
    ids = tokenizer.encode([" ".join(draw.choices(words, k=4 * LONGEST))])[0]
    starts = [draw.randrange(len(ids) - LONGEST) for _ in range(number)]
    return [tokenizer.decode(ids[start : start + draw.randint(0, LONGEST - 1)]) for start in starts]


async def ask(port: int, content: dict[str, Any], leave: bool = False) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps(content).encode()
        lines = [
            "POST /predict HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        if leave:
            return 0, {}, b""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()


async def load(given: argparse.Namespace, port: int, texts: list[str]) -> tuple[list[float], list[Any], float]:
    """Seconds of each request, (number of its text, status, headers, body) of each, and seconds of all."""
    seconds, found = list[float](), list[Any]()
    begin = time.perf_counter()
    numbers = iter(range(given.requests or sys.maxsize))

    async def client() -> None:
        while given.requests or time.perf_counter() - begin < given.seconds:
            if (number := next(numbers, None)) is None:
                return
            asked = time.perf_counter()
            answer = await ask(port, {"text": texts[number % len(texts)], "id": number})
            seconds.append(time.perf_counter() - asked)
            found.append((number, *answer))

    leaving = [ask(port, {"text": texts[i % len(texts)]}, leave=True) for i in range(100 if given.requests else 0)]
    await asyncio.gather(*(client() for _ in range(given.clients)), *leaving)
    return seconds, found, time.perf_counter() - begin


def judge(given: argparse.Namespace, predictor: Predictor, texts: list[str], found: list[Any]) -> None:
    """Whether every answer is right."""
    alone = {number: predictor.predict([{"text": texts[number % len(texts)]}])[0] for number, *_ in found[:300]}
    for number, status, headers, body in found:
        assert status in (200, 429), status
        if status == 429:
            assert int(headers["retry-after"]) >= 1
            continue
        told = json.loads(body)
        assert told["id"] == number
        if number in alone:
            worst = max(abs(told["probabilities"][name] - p) for name, p in alone[number]["probabilities"].items())
            assert worst <= 1e-5, worst
    print(f"every one of {len(found)} answered; of {len(alone)} compared with the answer alone, all equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="run= seconds= clients= requests= queue= wait_ms="
    )
    parser.add_argument("--serve", choices=["ragged", "padded"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    known = {"run": "", "seconds": 20.0, "clients": 64, "requests": 0, "queue": 256, "wait_ms": 5.0}
    for name, value in known.items():
        typed = dict(word.split("=", 1) for word in given.words)
        setattr(given, name, type(value)(typed.get(name, value)))
    if given.serve:
        server(given)
        return
    predictor = seqlab.load(given.run)
    texts, cores = texts_of(predictor, 4096), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    print("| served | requests/s | p50 | p99 | 200 | 429 | memory |\n|---|---:|---:|---:|---:|---:|---:|")
    for kind in ("ragged",) if given.requests else ("ragged", "padded"):
        command = ["taskset", "-c", str(cores[-1]), sys.executable, __file__, *given.words, "--serve", kind]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            memory = psutil.Process(process.pid).memory_info().rss
            seconds, found, whole = asyncio.run(load(given, port, texts))
            grown = (psutil.Process(process.pid).memory_info().rss - memory) / 2**20
            process.terminate()
        statuses = Counter(status for _, status, *_ in found)
        p50, p99 = (1000 * np.quantile(seconds, share) for share in (0.5, 0.99))
        figures = f"{len(found) / whole:.1f} | {p50:.0f} ms | {p99:.0f} ms | {statuses[200]} | {statuses[429]}"
        print(f"| {kind} | {figures} | {grown:+.0f} MiB |", flush=True)
        if kind == "ragged":
            judge(given, predictor, texts, found)


if __name__ == "__main__":
    main()
