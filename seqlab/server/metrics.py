"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seqlab.models.hypothesis import Hypothesis
from seqlab.server.queue import FailedError, Job

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POWERS = tuple(2**i for i in range(15))


class Metrics:
    """Counters of one server.

    Args:
        waiting: how many items wait.
        unanswered: how many have been accepted and are not answered yet.
    """

    def __init__(self, waiting: Callable[[], int], unanswered: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("seqlab_requests", "Requests answered.", ("route", "status"))
        self.written = counter("seqlab_tokens_written", "Tokens written.")
        self.failures = counter("seqlab_model_failures", "Items without an answer because the model failed.")
        self.seconds = histogram("seqlab_request_seconds", "From request to answer.", _SECONDS, ("route",))
        self.queued = histogram("seqlab_queue_seconds", "From when an item waits to its turn.", _SECONDS)
        self.step = histogram("seqlab_step_seconds", "Of a batch, or of a step of texts being written.", _SECONDS)
        self.first = histogram("seqlab_first_token_seconds", "From when an item waits to its first token.", _SECONDS)
        self.items = histogram("seqlab_batch_items", "Items of a batch, or that join in a step.", _POWERS)
        self.tokens = histogram("seqlab_batch_tokens", "Tokens of a batch, or that join in a step.", _POWERS)
        self.rows = Gauge("seqlab_running_rows", "Hypotheses being written side by side.", registry=self.registry)
        for name, text, count in (
            ("seqlab_queue_items", "Items that wait.", waiting),
            ("seqlab_unanswered_items", "Items accepted and not answered yet.", unanswered),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One more request; routes are those there are, not what clients type."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def waited(self, seconds: float) -> None:
        """The turn of an item has come."""
        self.queued.observe(seconds)

    def batch(self, items: int, tokens: int) -> None:
        """One more batch."""
        self.items.observe(items)
        self.tokens.observe(tokens)

    def stepped(self, rows: int, seconds: float) -> None:
        """The model has worked for so long, and so many hypotheses go on."""
        self.rows.set(rows)
        self.step.observe(seconds)

    def writes(self, job: Job, in_steps: bool) -> None:
        """Counts what will be written for a job: token by token, or, of a beam, when it is known."""
        tokens = 0

        def wrote(_: int) -> None:
            nonlocal tokens
            tokens += 1
            if tokens == 1:
                self.first.observe(monotonic() - job.arrived)
            self.written.inc()

        def found(answer: Future[list[Hypothesis]]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                self.written.inc(sum(len(hypothesis.tokens) for hypothesis in answer.result()))

        if in_steps:
            job.on_token.append(wrote)
        else:
            job.answer.add_done_callback(found)

    def answered(self, answer: Future[Any]) -> None:
        """One more item has its answer, or will get none."""
        if not answer.cancelled() and isinstance(answer.exception(), FailedError):
            self.failures.inc()

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
