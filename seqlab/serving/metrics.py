"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seqlab.models.hypothesis import Hypothesis

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
        by_route = ("route", "status")
        self.requests = Counter("seqlab_requests", "Requests answered.", by_route, registry=self.registry)
        self.seconds = Histogram(
            "seqlab_request_seconds", "From request to answer.", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self.items = Histogram("seqlab_batch_items", "Items of a batch.", buckets=_POWERS, registry=self.registry)
        self.tokens = Histogram("seqlab_batch_tokens", "Tokens of a batch.", buckets=_POWERS, registry=self.registry)
        self.written = Counter("seqlab_tokens_written", "Tokens written.", registry=self.registry)
        for name, text, count in (
            ("seqlab_queue_items", "Items that wait.", waiting),
            ("seqlab_unanswered_items", "Items accepted and not answered yet.", unanswered),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One more request; routes are those there are, not what clients type."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, items: int, tokens: int) -> None:
        """One more batch."""
        self.items.observe(items)
        self.tokens.observe(tokens)

    def answered(self, answer: Future[list[Hypothesis]]) -> None:
        """One more text is written."""
        if not answer.cancelled() and answer.exception() is None:
            self.written.inc(sum(len(hypothesis.tokens) for hypothesis in answer.result()))

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
