"""What is asked waits here, and is answered in batches: of any lengths, up to a budget of tokens, without padding.

A batch is what has waited longest, as much as fits. It is taken when it is full, or when its first has waited for
`wait_s`; while another is computed, the next one gathers, so that under load nobody waits for company. Whoever leaves
before their turn is never computed. When `most` wait, nobody else may join: a queue that grows only makes all late.

One thread takes, any number put. Nothing here knows what a model is, or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


class FullError(Exception):
    """As many wait as may wait."""


class ClosedError(Exception):
    """Nobody may join any more."""


@dataclass(eq=False)
class Job:
    """One item, from the moment it is accepted.

    asked     what is to be answered
    tokens    how many tokens of the batch's budget it takes
    rows      how many rows of the batch
    deadline  by `time.monotonic`: when its turn comes later, it is not computed any more
    answer    where the answer will be; TimeoutError where it came too late
    on_token  called with every token as it is written
    """

    asked: Any
    tokens: int
    rows: int = 1
    deadline: float = float("inf")
    on_token: Callable[[int], object] = lambda token: None
    answer: Future[Any] = field(default_factory=Future)
    abandoned: bool = False
    arrived: float = field(default_factory=time.monotonic)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self.abandoned = True
        self.answer.cancel()


class Queue:
    """Jobs that wait.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.closed = False
        self.unanswered = 0  # accepted, and neither answered nor abandoned
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            self._let_go()
            return len(self._jobs)

    def put(self, jobs: Sequence[Job]) -> None:
        """All of these wait from now on, or none.

        Raises:
            FullError: there is no room for all.
            ClosedError: the queue is closed.
        """
        with self._changed:
            if self.closed:
                raise ClosedError
            self._let_go()
            if len(self._jobs) + len(jobs) > self.most:
                raise FullError
            self._jobs.extend(jobs)
            self.unanswered += len(jobs)
            self._changed.notify_all()
        for job in jobs:
            job.answer.add_done_callback(self._answered)

    def take(self, tokens: int, rows: int, wait_s: float, block: bool = True) -> list[Job]:
        """The next batch: at least one job, then as many as fit, in the order they came.

        Args:
            tokens: the most tokens; one job that has more goes alone.
            rows: the most rows; one job that has more goes alone, and none where this is 0.
            wait_s: how long the first one may wait for company, in seconds.
            block: wait for a job where there is none. The batch is empty only without that, or in the end.
        """
        with self._changed:
            while rows > 0:
                self._let_go()
                batch = self._fitting(tokens, rows)
                full = len(batch) < len(self._jobs) or sum(job.tokens for job in batch) >= tokens
                left = self._jobs[0].arrived + wait_s - time.monotonic() if self._jobs else 0.0
                if batch and (full or left <= 0 or self.closed or not block):
                    break
                if not batch and (self.closed or not block):
                    return []
                self._changed.wait(left if batch else None)
            else:
                return []
            for _ in batch:
                self._jobs.popleft()
        return [job for job in batch if job.answer.set_running_or_notify_cancel()]

    def close(self) -> None:
        """Nobody joins any more; what waits is answered."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _fitting(self, tokens: int, rows: int) -> list[Job]:
        batch: list[Job] = []
        for job in self._jobs:
            tokens, rows = tokens - job.tokens, rows - job.rows
            if batch and (tokens < 0 or rows < 0):
                break
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


def answer_batches(
    queue: Queue, answer: Callable[[list[Any]], Sequence[Any]], tokens: int, rows: int, wait_s: float
) -> None:
    """Answers until the queue is closed and empty.

    Args:
        queue: whose jobs these are.
        answer: of what each job of a batch asks, in order.
        tokens, rows, wait_s: see `Queue.take`.
    """
    while True:
        jobs = queue.take(tokens, rows, wait_s)
        if not jobs and queue.closed and not len(queue):
            return
        try:
            answers = answer([job.asked for job in jobs]) if jobs else []
            for job, found in zip(jobs, answers, strict=True):
                job.answer.set_result(found)
        except Exception as error:
            fail(jobs, error)


def fail(jobs: Sequence[Job], error: Exception) -> None:
    """These get no answer. The log says where it happened, and nothing that the error may quote of what was asked."""
    logger.error("%s", where(error))
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(RuntimeError("the model failed"))


def where(error: BaseException) -> str:
    """The type of an error and the lines it passed through, without its message, which may quote what was asked."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
