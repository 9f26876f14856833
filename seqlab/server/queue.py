"""Requests wait here and are answered in batches: of any lengths, up to a budget of tokens, without padding.

A batch is who has waited longest, and whoever else fits, in the order they came, but nobody who is much longer or
shorter: the short do not wait for the long. So each batch takes the oldest, and nobody waits for more batches than had
come before them. It is taken when it is full, or when its first has waited for `wait_s`; while another is computed, the
next one gathers, so that under load nobody waits for company. Whoever leaves before their turn is never computed. When
`most` wait, nobody else may join: a queue that grows only makes all late.

One thread takes, any number put. Nothing here knows what a model is, or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

RATIO = 8  # of the lengths of two in a batch, at most
SHORT = 64  # tokens; up to so many, all count as alike


class FullError(Exception):
    """The queue is full."""


class ClosedError(Exception):
    """Nobody may join any more."""


class FailedError(RuntimeError):
    """The model failed; the log says where."""


@dataclass(eq=False)
class Job:
    """One item, from the moment it is accepted.

    payload   what is to be answered: a `Request`, or a `Prompt` where the model writes
    tokens    how many tokens of the batch's budget it takes
    rows      how many rows, at most, until it is answered
    held      how many tokens are remembered for it, at most, until it is answered
    deadline  by `time.monotonic`: when its turn comes later, it is not computed any more
    on_token  each is called with every token as it is written
    answer    where the answer will be; TimeoutError where it came too late, FailedError where the model failed
    """

    payload: Any
    tokens: int
    rows: int = 1
    held: int = 0
    deadline: float = float("inf")
    on_token: list[Callable[[int], object]] = field(default_factory=list)
    answer: Future[Any] = field(default_factory=Future)
    abandoned: bool = False
    arrived: float = field(default_factory=time.monotonic)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.abandoned = True
        self.answer.cancel()


@dataclass(frozen=True)
class Budget:
    """What a batch may take, or, of a batch that others run beside, what these leave of it.

    tokens  a job that has more goes alone
    rows    as `tokens`; but where others run, it waits until there is room
    held    as `rows`
    """

    tokens: int
    rows: int
    held: float = float("inf")


class Queue:
    """Jobs that wait.

    Args:
        most: how many may wait.
        waited: told of each whose turn it is for how many seconds it has waited.
    """

    def __init__(self, most: int, waited: Callable[[float], object] = lambda seconds: None) -> None:
        self.most, self.waited = most, waited
        self.closed = False
        self.kept = 0  # places for those who are still being read
        self.unanswered = 0  # accepted, and neither answered nor abandoned
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            self._let_go()
            return len(self._jobs)

    @contextmanager
    def room(self, places: int) -> Iterator[Callable[[Sequence[Job]], None]]:
        """Keeps places for jobs that are still being read. What it gives puts them there, or raises `ClosedError`.
        Those that are not needed are given back in the end.

        Raises:
            FullError: there are not so many.
            ClosedError: the queue is closed.
        """
        with self._changed:
            self._require_open()
            self._let_go()
            if len(self._jobs) + self.kept + places > self.most:
                raise FullError
            self.kept += places
        left = places

        def put(jobs: Sequence[Job]) -> None:
            nonlocal left
            with self._changed:
                self._require_open()
                left -= len(jobs)
                self.kept -= len(jobs)
                self._jobs.extend(jobs)
                self.unanswered += len(jobs)
                self._changed.notify_all()
            for job in jobs:
                job.answer.add_done_callback(self._answered)

        try:
            yield put
        finally:
            with self._changed:
                self.kept -= left

    def put(self, jobs: Sequence[Job]) -> None:
        """All of these wait from now on, or none; raises as `room` does."""
        with self.room(len(jobs)) as put:
            put(jobs)

    def take(self, budget: Budget, wait_s: float, beside: bool = False) -> list[Job]:
        """The next batch.

        Args:
            budget: see there.
            wait_s: how long the first one may wait for company, in seconds.
            beside: others run, and do not wait: the batch may be empty. Else it has at least one job, or, in the end,
                none.
        """
        with self._changed:
            while True:
                self._let_go()
                batch = self._fitting(budget, beside)
                full = len(batch) < len(self._jobs) or sum(job.tokens for job in batch) >= budget.tokens
                left = self._jobs[0].arrived + wait_s - time.monotonic() if self._jobs else 0.0
                if beside or self.closed or (batch and (full or left <= 0)):
                    break
                self._changed.wait(left if batch else None)
            taken = set(batch)
            self._jobs = deque(job for job in self._jobs if job not in taken)
        batch = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        now = time.monotonic()
        for job in batch:
            self.waited(now - job.arrived)
        return batch

    def close(self) -> None:
        """Nobody joins any more; what waits is answered."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedError

    def _fitting(self, budget: Budget, beside: bool) -> list[Job]:
        """The oldest, and those behind it who fit; the first of them who does not ends it, else it might wait for ever
        while smaller ones pass. Whoever is too long or too short is passed over, for they will be the oldest."""
        batch: list[Job] = []
        tokens, rows, held = budget.tokens, budget.rows, budget.held
        shortest, longest = float("inf"), 0
        for job in self._jobs:
            length = max(job.tokens, SHORT)
            if max(longest, length) > RATIO * min(shortest, length):
                continue
            tokens, rows, held = tokens - job.tokens, rows - job.rows, held - job.held
            if (tokens < 0 and batch) or (min(rows, held) < 0 and (batch or beside)):
                break
            shortest, longest = min(shortest, length), max(longest, length)
            batch.append(job)
        return batch

    def _let_go(self) -> None:
        """Those who have left, or have waited too long, are out of the queue."""
        now = time.monotonic()
        kept = [job for job in self._jobs if not job.abandoned and job.deadline >= now]
        if len(kept) == len(self._jobs):
            return
        late = [job for job in self._jobs if not job.abandoned and job.deadline < now]
        self._jobs = deque(kept)
        for job in late:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(TimeoutError())

    def _answered(self, _: Future[Any]) -> None:
        with self._changed:
            self.unanswered -= 1
            self._changed.notify_all()


def answer_batches(queue: Queue, answer: Callable[[list[Any]], Sequence[Any]], budget: Budget, wait_s: float) -> None:
    """Answers until the queue is closed and empty.

    Args:
        queue: whose jobs these are.
        answer: of what each job of a batch asks, in order.
        budget, wait_s: see `Queue.take`.
    """
    while True:
        jobs = queue.take(budget, wait_s)
        if not jobs and queue.closed and not len(queue):
            return
        fail(settle(jobs, answer))


def settle(jobs: Sequence[Job], answer: Callable[[list[Any]], Sequence[Any]]) -> dict[Job, str]:
    """Answers these together, or where that fails each half by itself, so that nobody fails for another's sake; who
    fails, and where."""
    if not jobs:
        return {}
    try:
        answered = list(zip(jobs, answer([job.payload for job in jobs]), strict=True))
    except Exception as error:
        place = where(error)  # and the error is forgotten, with the memory that it holds
    else:
        for job, found in answered:
            job.answer.set_result(found)
        return {}
    if len(jobs) == 1:
        return {jobs[0]: place}
    half = len(jobs) // 2
    return {**settle(jobs[:half], answer), **settle(jobs[half:], answer)}


def fail(places: Mapping[Job, str]) -> None:
    """These get no answer. The log says where it happened, once, and nothing of the request."""
    for place in dict.fromkeys(places.values()):
        logger.error("%s", place)
    for job in places:
        if not job.answer.done():
            job.answer.set_exception(FailedError("the model failed"))


def where(error: BaseException) -> str:
    """The type of an error and the lines it passed through, without its message, which may quote the request."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
