"""Continuous batching writes what `generate` writes for each prompt alone, whenever it joins, and in any company."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqlab
from seqlab.inference.predictor import Predictor, Request
from seqlab.models.decoding import Decoding
from seqlab.server.queue import FailedError, Job
from seqlab.server.service import ServerBatching, ServerLimits, Service

HOWS = [
    Decoding(6),
    Decoding(9, temperature=1.0),
    Decoding(3, temperature=0.7, top_k=5),
    Decoding(7, temperature=1.3, top_p=0.8),
    Decoding(5, width=3, n_best=2),
    Decoding(1),
]
NAMES = ["language_modeling", "language_modeling-transformer", "seq2seq", "seq2seq-transformer"]


@pytest.fixture(scope="module", params=NAMES)
def predictor(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Predictor:
    return seqlab.load(bundles[request.param])


def served(
    predictor: Predictor, jobs: list[Job], pauses: list[float], rows: int
) -> list[list[tuple[list[int], float, bool]]]:
    service = Service(predictor, ServerBatching(tokens=12, rows=rows, wait_ms=1), ServerLimits())
    service.start()
    for job, pause in zip(jobs, pauses, strict=True):
        service.queue.put([job])
        time.sleep(pause)
    found = [job.answer.result(30) for job in jobs]
    service.close()
    service.thread.join(10)
    assert not service.thread.is_alive()
    return [[(one.tokens.tolist(), one.score, one.finished) for one in hypotheses] for hypotheses in found]


@settings(max_examples=6)
@given(data=st.data())
def test_it_writes_what_generate_writes(predictor: Predictor, data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.sampled_from(["", "a", "film", "an awful film " * 2]), min_size=1, max_size=7))
    hows = [data.draw(st.sampled_from(HOWS)) for _ in texts]
    pauses = [data.draw(st.sampled_from([0, 0, 0.002])) for _ in texts]
    rows = data.draw(st.sampled_from([1, 4, 64]))
    name = predictor.preprocessor.fields[0]
    asked = predictor.read([{name: text} for text in texts])
    service = Service(predictor, ServerBatching(), ServerLimits())
    jobs = [service.job(one, how, 0, seed=7) for one, how in zip(asked, hows, strict=True)]
    streamed: list[list[int]] = [[] for _ in jobs]
    for job, tokens in zip(jobs, streamed, strict=True):
        job.on_token.append(tokens.append)
    found = served(predictor, jobs, pauses, rows)
    for one, how, ours, tokens in zip(asked, hows, found, streamed, strict=True):
        batch = predictor.batch([one])
        (alone,) = predictor.task.predict(batch, how, 7)
        assert [row[0] for row in ours] == [row.tokens.tolist() for row in alone]
        assert [row[1] for row in ours] == pytest.approx([row.score for row in alone], abs=1e-5)
        assert [row[2] for row in ours] == [row.finished for row in alone]
        assert tokens == ([] if how.width > 1 else ours[0][0])


@pytest.fixture
def endless(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """No text of its ends by itself."""
    head, end = predictor.task.model.head, predictor.task.end
    scores = head.scores
    monkeypatch.setattr(head, "scores", lambda hidden: scores(hidden).index_fill(1, torch.tensor([end]), -torch.inf))
    return predictor


BEAM = Decoding(6, width=2)
SECRET = "an awful secret"


def once(act: Callable[[], object]) -> Callable[[int], object]:
    """To be called with every token; acts at the first."""
    acts = iter([act])
    return lambda _: next(acts, lambda: None)()


@contextmanager
def writing(predictor: Predictor, **batching: int) -> Iterator[Service]:
    service = Service(predictor, ServerBatching(wait_ms=1, **batching), ServerLimits())
    service.start()
    try:
        yield service
    finally:
        service.close()
        service.thread.join(10)
        assert not service.thread.is_alive()


def read(predictor: Predictor, *texts: str) -> list[Request]:
    return predictor.read([{predictor.preprocessor.fields[0]: text} for text in texts])


def alone(predictor: Predictor, asked: Request, how: Decoding) -> list[int]:
    tokens: list[int] = predictor.task.predict(predictor.batch([asked]), how, 0)[0][0].tokens.tolist()
    return tokens


@pytest.mark.parametrize("how", [Decoding(20_000, temperature=2.0), Decoding(20_000, width=2, length_penalty=50)])
def test_who_leaves_is_written_no_more(endless: Predictor, how: Decoding) -> None:
    (asked,) = read(endless, "a film")
    with writing(endless) as service:
        long, written = service.job(asked, how), list[int]()
        long.on_token += [written.append, lambda _: long.abandon()]
        service.queue.put([long])
        if how.width > 1:
            time.sleep(0.01)
            long.abandon()
        quick = service.job(asked, Decoding(2))
        service.queue.put([quick])
        assert len(quick.answer.result(10)[0].tokens) == 2
    assert len(written) == (1 if how.width == 1 else 0)
    assert service.metrics.registry.get_sample_value("seqlab_running_rows") == 0
    steps = service.metrics.registry.get_sample_value("seqlab_step_seconds_count")
    assert steps is not None
    assert steps < 1000


@dataclass
class Weak:
    """A model that fails in a step whenever it meets one of `bad`, after it has written to its cache."""

    predictor: Predictor
    monkeypatch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.bad: list[Request] = []
        self.joining: list[Request] = []
        self.tries = 0
        batch, head = self.predictor.batch, self.predictor.task.model.head
        scores = head.scores

        def met(asked: list[Request]) -> object:
            self.joining = asked
            return batch(asked)

        def failing(hidden: torch.Tensor) -> torch.Tensor:
            found = scores(hidden)
            joining, self.joining = self.joining, []
            if any(one in self.bad for one in joining):
                self.tries += 1
                raise torch.OutOfMemoryError(SECRET)
            return found

        self.monkeypatch.setattr(self.predictor, "batch", met)
        self.monkeypatch.setattr(head, "scores", failing)


def test_a_bad_joiner_fails_alone(
    endless: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = read(endless, "a", "an awful film", "fine", "film")
    hows = [Decoding(12), Decoding(5), Decoding(7), Decoding(4, width=2)]
    expected = [alone(endless, *pair) for pair in zip(asked, hows, strict=True)]
    weak = Weak(endless, monkeypatch)
    weak.bad = [asked[1]]
    with writing(endless) as service:
        first, bad, *good = (service.job(one, how) for one, how in zip(asked, hows, strict=True))
        streamed = list[int]()
        first.on_token += [streamed.append, once(lambda: service.queue.put([good[0], bad, good[1]]))]
        service.queue.put([first])
        with pytest.raises(FailedError):
            bad.answer.result(10)
        found = [job.answer.result(10)[0].tokens.tolist() for job in (first, *good)]
    assert found == [expected[0], *expected[2:]]
    assert streamed == expected[0]
    assert weak.tries == 2  # with others, and alone
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text
    assert service.metrics.registry.get_sample_value("seqlab_model_failures_total") == 1


def test_of_those_who_begin_together_the_bad_one_fails_alone(
    endless: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = read(endless, "a film", "an awful film", "fine")
    expected = [alone(endless, one, Decoding(3)) for one in asked]
    weak = Weak(endless, monkeypatch)
    weak.bad = [asked[1]]
    with writing(endless) as service:
        jobs = [service.job(one, Decoding(3)) for one in asked]
        service.queue.put(jobs)
        with pytest.raises(FailedError):
            jobs[1].answer.result(10)
        assert [jobs[i].answer.result(10)[0].tokens.tolist() for i in (0, 2)] == [expected[0], expected[2]]


def test_who_joins_a_failing_company_survives_it(endless: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = read(endless, "a film", "fine")
    expected = alone(endless, asked[1], Decoding(5))
    head = endless.task.model.head
    scores, widths = head.scores, list[int]()

    def failing(hidden: torch.Tensor) -> torch.Tensor:
        widths.append(len(hidden))
        if len(widths) in (2, 3):  # the step that the second joins, and the same without it
            raise RuntimeError
        return scores(hidden)

    monkeypatch.setattr(head, "scores", failing)
    with writing(endless) as service:
        jobs = [service.job(one, Decoding(5)) for one in asked]
        jobs[0].on_token.append(lambda _: service.queue.put([jobs[1]]))
        service.queue.put([jobs[0]])
        with pytest.raises(FailedError):
            jobs[0].answer.result(10)
        assert jobs[1].answer.result(10)[0].tokens.tolist() == expected
    assert widths == [1, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("width", [1, 2])
def test_whose_scores_are_no_numbers_fails_alone(
    endless: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, width: int
) -> None:
    asked = read(endless, "a film", "fine", "film")
    hows = [Decoding(4), Decoding(4, width=width), Decoding(4)]
    expected = [alone(endless, *pair) for pair in zip(asked, hows, strict=True)]
    head = endless.task.model.head
    scores = head.scores

    def wrong(hidden: torch.Tensor) -> torch.Tensor:
        found = scores(hidden)
        if len(found) == 3:
            found[1] = torch.nan
        return found

    monkeypatch.setattr(head, "scores", wrong)
    with writing(endless) as service:
        jobs = [service.job(one, how) for one, how in zip(asked, hows, strict=True)]
        service.queue.put(jobs)
        with pytest.raises(FailedError):
            jobs[1].answer.result(10)
        assert [jobs[i].answer.result(10)[0].tokens.tolist() for i in (0, 2)] == [expected[0], expected[2]]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("settings", "rows", "joining"),
    [
        ({}, 7, 3),
        ({"rows": 5}, 5, 2),  # a beam will have both its rows soon, also while it has one
        ({"running_tokens": 80}, 3, 1),
        ({"joining_tokens": 8}, 7, 1),
    ],
)
def test_what_runs_and_joins_is_bounded(
    endless: Predictor, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], rows: int, joining: int
) -> None:
    asked = read(endless, *["a film"] * 4)
    running, joined = list[int](), list[int]()
    head, batch = endless.task.model.head, endless.batch
    scores = head.scores

    def seen(hidden: torch.Tensor) -> torch.Tensor:
        running.append(len(hidden))
        return scores(hidden)

    def met(asked: list[Request]) -> object:
        joined.append(len(asked))
        return batch(asked)

    monkeypatch.setattr(head, "scores", seen)
    monkeypatch.setattr(endless, "batch", met)
    with writing(endless, **settings) as service:
        first, *beams = (service.job(one, how) for one, how in zip(asked, [Decoding(30), *[BEAM] * 3], strict=True))
        first.on_token.append(once(lambda: service.queue.put(beams)))
        service.queue.put([first])
        for job in (first, *beams):
            assert job.answer.result(10)
    assert max(running) == rows
    assert max(joined) == joining
    assert sum(joined) == 4
