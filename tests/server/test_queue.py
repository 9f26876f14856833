"""The queue: everybody is answered once, in order, within the budget; and nobody who has left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.server.queue import RATIO, SHORT, Budget, ClosedError, FailedError, FullError, Job, Queue, answer_batches

SMALL = Budget(9, 4)
SIZES = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5, 40]), max_size=20)


@contextmanager
def answering(queue: Queue, answer: Callable[[list[int]], list[int]], budget: Budget = SMALL) -> Iterator[None]:
    thread = threading.Thread(target=answer_batches, args=(queue, answer, budget, 0.001))
    thread.start()
    try:
        yield
    finally:
        queue.close()
        thread.join(10)
        assert not thread.is_alive()


@settings(max_examples=40)
@given(sizes=SIZES, groups=st.lists(st.integers(1, 4), min_size=20, max_size=20), leaving=st.sets(st.integers(0, 19)))
def test_everybody_is_answered_once_and_nobody_who_has_left(
    sizes: list[int], groups: list[int], leaving: set[int]
) -> None:
    queue, batches = Queue(50), list[list[int]]()
    jobs = [Job(number, size) for number, size in enumerate(sizes)]
    rest = list(jobs)
    for group in groups:  # some at a time
        queue.put(rest[:group])
        rest = rest[group:]
    gone = [job for job in jobs if job.payload in leaving]
    for job in gone:
        job.abandon()
    staying = [job for job in jobs if job not in gone]
    assert len(queue) == queue.unanswered == len(staying)

    def answer(asked: list[int]) -> list[int]:
        batches.append(asked)
        return [-number for number in asked]

    with answering(queue, answer):
        assert [job.answer.result(10) for job in staying] == [-job.payload for job in staying]
    assert [number for batch in batches for number in batch] == [job.payload for job in staying]  # once, in order
    for batch in batches:
        assert len(batch) == 1 or (sum(sizes[number] for number in batch) <= 9 and len(batch) <= 4)
    for batch, following in pairwise(batches):  # it was full: nobody waits who would fit
        assert sum(sizes[number] for number in batch) + sizes[following[0]] > 9 or len(batch) == 4
    assert queue.unanswered == len(queue) == 0


@given(putting=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), max_size=8))
def test_all_of_a_request_wait_or_none(putting: list[list[int]]) -> None:
    queue, waiting = Queue(7), 0
    for sizes in putting:
        jobs = [Job(None, size) for size in sizes]
        if waiting + len(jobs) > 7:
            with pytest.raises(FullError):
                queue.put(jobs)
        else:
            queue.put(jobs)
            waiting += len(jobs)
        assert len(queue) == waiting <= 7


def test_room_of_those_who_left_is_free_at_once() -> None:
    queue = Queue(2)
    jobs = [Job(None, 1), Job(None, 1)]
    queue.put(jobs)
    jobs[0].abandon()
    queue.put([Job(None, 1)])
    assert len(queue) == 2


def test_places_are_kept_for_those_who_are_still_being_read() -> None:
    queue = Queue(3)
    with queue.room(2) as put:
        with pytest.raises(FullError):
            queue.put([Job(None, 1), Job(None, 1)])
        with pytest.raises(FullError), queue.room(2):
            pass
        queue.put([Job(None, 1)])
        assert len(queue) == queue.unanswered == 1
        put([Job(None, 1), Job(None, 1)])
        with pytest.raises(FullError):
            queue.put([Job(None, 1)])
    assert len(queue) == queue.unanswered == 3
    queue = Queue(1)
    with pytest.raises(ValueError, match="cannot be read"), queue.room(1):
        raise ValueError("cannot be read")
    with queue.room(1) as put:
        queue.close()
        with pytest.raises(ClosedError):
            put([Job(None, 1)])
    assert queue.kept == len(queue) == 0


def test_a_batch_is_taken_when_it_is_full_or_ripe() -> None:
    queue = Queue(10)
    queue.put([Job("a", 3)])
    begin = time.monotonic()
    assert [job.payload for job in queue.take(Budget(9, 9), 0.05)] == ["a"]
    assert time.monotonic() - begin > 0.03
    queue.put([Job("b", 5), Job("c", 4)])
    begin = time.monotonic()
    assert [job.payload for job in queue.take(Budget(9, 9), 30)] == ["b", "c"]  # full, and so it does not wait
    queue.put([Job("d", 1), Job("e", 1)])
    assert [job.payload for job in queue.take(Budget(9, 1), 30)] == ["d"]
    assert [job.payload for job in queue.take(Budget(9, 9), 30, beside=True)] == ["e"]
    assert queue.take(Budget(9, 9), 30, beside=True) == []
    assert time.monotonic() - begin < 10


def test_beside_others_a_job_waits_until_there_is_room_and_nobody_passes_it() -> None:
    waited = list[float]()
    queue = Queue(10, waited.append)
    queue.put([Job("wide", 1, rows=8), Job("narrow", 1)])
    assert queue.take(Budget(9, 7), 0, beside=True) == []
    assert [job.payload for job in queue.take(Budget(9, 8), 0, beside=True)] == ["wide"]
    queue.put([Job("long", 20, held=30)])
    assert [job.payload for job in queue.take(Budget(9, 8, 29), 0, beside=True)] == ["narrow"]
    assert queue.take(Budget(9, 8, 29), 0, beside=True) == []
    assert [job.payload for job in queue.take(Budget(9, 8, 30), 0, beside=True)] == ["long"]  # of tokens alone too many
    queue.put([Job("too wide", 1, rows=9, held=99)])
    assert [job.payload for job in queue.take(Budget(9, 8, 30), 0)] == ["too wide"]  # nobody else is there
    assert len(waited) == 4


@settings(max_examples=40)
@given(sizes=st.lists(st.sampled_from([1, 60, 90, 500, 700, 4096]), min_size=1, max_size=40))
def test_the_short_do_not_wait_for_the_long_and_nobody_starves(sizes: list[int]) -> None:
    queue = Queue(100)
    waiting = [Job(number, size) for number, size in enumerate(sizes)]
    queue.put(waiting)
    for _ in sizes:  # as many batches at most, whoever else comes
        if not waiting:
            return
        queue.put([Job(None, 1)])
        batch = queue.take(Budget(8192, 8), 0)
        assert batch[0] is waiting[0]
        lengths = [max(job.tokens, SHORT) for job in batch]
        assert max(lengths) <= RATIO * min(lengths)
        waiting = [job for job in waiting if job not in batch]
    assert not waiting


def test_whose_deadline_passes_is_not_computed() -> None:
    queue, seen = Queue(10), list[str]()
    late, early = Job("late", 1, deadline=time.monotonic() - 1), Job("early", 1, deadline=time.monotonic() + 60)
    queue.put([late, early])
    with answering(queue, lambda asked: (seen.extend(asked), asked)[1]):  # type: ignore[func-returns-value]
        assert early.answer.result(10) == "early"
        with pytest.raises(TimeoutError):
            late.answer.result(10)
    assert seen == ["early"]


def test_a_closed_queue_lets_nobody_in_and_answers_who_waits() -> None:
    queue = Queue(10)
    job = Job(1, 1)
    queue.put([job])
    queue.close()
    with pytest.raises(ClosedError):
        queue.put([Job(2, 1)])
    answer_batches(queue, lambda asked: asked, Budget(9, 9), 60)
    assert job.answer.result(0) == 1


def test_an_error_reaches_who_is_to_blame_alone_and_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(10)

    def answer(asked: list[str]) -> list[str]:
        if "secret" in asked or "hidden" in asked:
            raise ValueError(f"cannot read {asked}")
        return asked

    jobs = [Job(text, 1) for text in ("fine", "secret", "good", "well", "hidden")]
    queue.put(jobs)
    with answering(queue, answer, Budget(9, 9)):  # type: ignore[arg-type]
        for job in jobs:
            if job.payload in ("secret", "hidden"):
                with pytest.raises(FailedError, match=r"^the model failed$"):
                    job.answer.result(10)
            else:
                assert job.answer.result(10) == job.payload
    (record,) = caplog.records  # one defect, told once
    assert "ValueError" in record.message
    assert "test_queue.py" in record.message
    assert "cannot read" not in caplog.text.replace('raise ValueError(f"cannot read', "")
    assert "secret'" not in caplog.text


def test_many_threads_put_and_leave() -> None:
    queue, seen = Queue(16), list[int]()
    answers: list[tuple[int, Future[int]]] = []

    def ask(first: int) -> None:
        for number in range(first, first + 50):
            job = Job(number, number % 5)
            try:
                queue.put([job])
            except FullError:
                continue
            if number % 7 == 0:
                job.abandon()
            answers.append((number, job.answer))

    with answering(queue, lambda asked: (seen.extend(asked), [-one for one in asked])[1]):  # type: ignore[func-returns-value]
        threads = [threading.Thread(target=ask, args=(1000 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(seen) == len(set(seen))
    for number, answer in answers:
        assert answer.cancelled() if number not in seen else answer.result(0) == -number
    assert queue.unanswered == 0
