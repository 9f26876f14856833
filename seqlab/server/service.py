"""A model that answers many clients at once: requests are read, queued, and computed in batches by a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic, perf_counter
from typing import Any

from seqlab.errors import InputError, require_positive
from seqlab.inference.predictor import Predictor, Request, TooLongError, likeliest
from seqlab.layers.native import heap
from seqlab.models.decoding import Decoding
from seqlab.server import continuous_batching
from seqlab.server.metrics import Metrics
from seqlab.server.queue import Budget, Job, Queue, answer_batches


@dataclass(frozen=True)
class ServerBatching:
    """How requests are put together in batches.

    tokens          the most tokens of a batch; of texts to be written, of those that begin together
    rows            the most items of a batch; of texts to be written, the most hypotheses side by side
    wait_ms         how long an item may wait for company while nothing is computed
    joining_tokens  the most tokens that join in a step while others are written, which wait for them
    running_tokens  the most tokens that are remembered of texts being written: of each hypothesis those of its prompt,
                    and as many as it may be long
    """

    tokens: int = 8192
    rows: int = 64
    wait_ms: float = 5.0
    joining_tokens: int = 1024
    running_tokens: int = 131_072

    def __post_init__(self) -> None:
        require_positive("batching", **vars(self))


@dataclass(frozen=True)
class ServerLimits:
    """What is refused.

    body            bytes of a request
    items           of a request
    item_tokens     of an item
    request_tokens  of all items of a request together
    new_tokens      to be written for an item
    width           of a beam
    queue           items that wait, at least `items`; more are refused with status 429
    connections     at a time; on more, requests are refused with status 503
    deadline_s      until an answer must be there, or, of a stream, its first token
    read_s          in which a client has to send its request
    write_s         in which a client has to take what is written to it
    drain_s         in which what was accepted is answered after SIGTERM
    """

    body: int = 1_000_000
    items: int = 32
    item_tokens: int = 4096
    request_tokens: int = 16384
    new_tokens: int = 512
    width: int = 8
    queue: int = 256
    connections: int = 1000
    deadline_s: float = 30.0
    read_s: float = 5.0
    write_s: float = 5.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        require_positive("limits", **vars(self))
        if self.queue < self.items:
            raise InputError(
                f"limits.queue={self.queue}: all items of a request wait at once, and it may have "
                f"limits.items={self.items}; set limits.queue={self.items} or more, or fewer limits.items"
            )


class TooMuchError(Exception):
    """A request is larger than `ServerLimits` allow. The message quotes nothing of it."""


class Service:
    """Answers what is put into `queue`, in a thread, until `close`.

    Args:
        predictor: the model.
        batching, limits: see there.
        name: of the model, as clients know it.
    """

    def __init__(
        self, predictor: Predictor, batching: ServerBatching, limits: ServerLimits, name: str = "seqlab"
    ) -> None:
        self.predictor, self.batching, self.limits, self.name = predictor, batching, limits, name
        self.task = type(predictor.task).__name__
        self.kind, self.decoding = predictor.task.description, predictor.task.decoding
        self.metrics = Metrics(lambda: len(self.queue), lambda: self.queue.unanswered)
        self.queue = Queue(limits.queue, self.metrics.waited)
        self.thread = threading.Thread(target=self._serve, name="model", daemon=True)

    def read(self, items: Sequence[Mapping[str, Any]]) -> list[Request]:
        """The items, tokenised.

        Raises:
            TooMuchError: there are too many tokens.
            ValueError: an item is of another kind; the message begins with its number.
        """
        self._require_few([self.predictor.least(item) for item in items])  # a long text takes long, and much memory
        requests, problem = self.predictor.read_first(items)
        if isinstance(problem, TooLongError):
            raise TooMuchError(str(problem)) from problem
        if problem is not None:
            raise ValueError(str(problem)) from problem
        self._require_few([one.given for one in requests])
        return requests

    def _require_few(self, tokens: Sequence[int]) -> None:
        """Of the items of a request."""
        for number, given in enumerate(tokens, start=1):
            if given > self.limits.item_tokens:
                raise TooMuchError(f"item {number}: more than {self.limits.item_tokens} tokens")
        if sum(tokens) > self.limits.request_tokens:
            raise TooMuchError(f"more than {self.limits.request_tokens} tokens together")

    def job(
        self,
        request: Request,
        decoding: Decoding | None = None,
        place: int = 0,
        seed: int = 0,
        deadline: float = float("inf"),
    ) -> Job:
        """What to put into the queue.

        Args:
            request: an item that has been read.
            decoding: of a model that writes; None: the one it is evaluated with.
            place: of the item in its request, by which, and `seed`, what is drawn is seeded.
            deadline: see `deadline`.
        """
        if self.decoding is None:
            job = Job(request, request.tokens, deadline=deadline)
        else:
            how = decoding or replace(self.decoding, max_tokens=min(self.decoding.max_tokens, self.limits.new_tokens))
            own_seed = seed + 1_000_003 * place  # as `Predictor.predict` seeds it
            prompt = continuous_batching.Prompt(request, how, own_seed)
            held = how.width * (request.tokens + how.max_tokens)
            job = Job(prompt, request.tokens, how.width, held, deadline)
            self.metrics.writes(job, in_steps=how.width == 1)
        job.answer.add_done_callback(self.metrics.answered)
        return job

    def deadline(self) -> float:
        """By `time.monotonic`: of a request that arrives now."""
        return monotonic() + self.limits.deadline_s

    def how(self, given: Mapping[str, Any]) -> Decoding:
        """The model's decoding with some settings changed. What it says of drawing gives way where a beam is asked for,
        or nothing is to be drawn; and what it says of a beam, where something is.

        Raises:
            ValueError: they do not fit together.
        """
        assert self.decoding is not None
        default = {**asdict(self.decoding), "max_tokens": min(self.decoding.max_tokens, self.limits.new_tokens)}
        if given.get("width", 1) > 1 or given.get("temperature") == 0:
            default |= {"temperature": 0.0, "top_k": None, "top_p": None}
        elif given.get("temperature", 0) > 0:
            default |= {"width": 1, "n_best": 1}
        return Decoding(**{**default, **given})

    def to_json(self, request: Request, answer: Any, top_k: int | None = None) -> dict[str, Any]:
        """Return an answer as it is sent to a client."""
        if self.decoding is not None:
            return self.predictor.preprocessor.format_prediction(answer, request.record, self.predictor.vocabularies)
        return likeliest(answer, top_k)

    def warm_up(self) -> None:
        """Answers a full batch, so that before anybody waits kernels are compiled, and the memory is taken that a batch
        wants."""
        predictor, decoding, batching = self.predictor, self.decoding, self.batching
        rows = batching.rows if decoding is None else max(1, batching.rows // decoding.width)
        item: dict[str, Any] = json.loads(predictor.example)
        (one,) = predictor.read([item])
        most = min(batching.tokens // rows, self.limits.item_tokens, predictor.room or batching.tokens)
        times = max(1, most // one.tokens)
        longer = {name: " ".join([value] * times) if isinstance(value, str) else value for name, value in item.items()}
        try:
            requests = predictor.read([longer] * rows)
        except TooLongError:  # of positions that are counted otherwise, such as words
            requests = predictor.read([item] * rows)
        predictor.answers(requests, None if decoding is None else replace(decoding, max_tokens=2))

    def start(self) -> None:
        """Begins to answer."""
        self.thread.start()

    def close(self) -> None:
        """Accepts no more; what was accepted is answered."""
        self.queue.close()

    def _serve(self) -> None:
        batching, wait_s = self.batching, self.batching.wait_ms / 1000
        if self.decoding is None:
            answer_batches(self.queue, self._answers, Budget(batching.tokens, batching.rows), wait_s)
            return
        task: Any = self.predictor.task  # any model that `continuous_batching.write` can continue
        budget = Budget(batching.tokens, batching.rows, batching.running_tokens)
        device = self.predictor.device
        continuous_batching.write(
            self.queue,
            task.model,
            self._begin,
            task.end,
            device,
            budget,
            batching.joining_tokens,
            wait_s,
            self._stepped,
        )

    def _answers(self, requests: Sequence[Request]) -> Any:
        self.metrics.batch(len(requests), sum(one.tokens for one in requests))
        begun = perf_counter()
        try:
            return self.predictor.answers(requests)
        finally:
            self._stepped(0, perf_counter() - begun)

    def _stepped(self, rows: int, seconds: float) -> None:
        self.metrics.stepped(rows, seconds)
        heap.trim()

    def _begin(self, requests: Sequence[Request]) -> Any:
        self.metrics.batch(len(requests), sum(one.tokens for one in requests))
        task = self.predictor.task
        return task.begin(self.predictor.batch(requests))
