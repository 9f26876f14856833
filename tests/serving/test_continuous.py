"""Continuous batching writes what `generate` writes for each prompt alone, whenever it joins, and in any company."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqlab
from seqlab.models.decoding import Decoding
from seqlab.serving.batcher import Job
from seqlab.serving.predictor import Predictor
from seqlab.serving.service import Batching, Limits, Service

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
    service = Service(predictor, Batching(tokens=12, rows=rows, wait_ms=1), Limits())
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
    name = predictor.form.fields[0]
    asked = predictor.read([{name: text} for text in texts])
    service = Service(predictor, Batching(), Limits())
    jobs = [service.job(one, how, 0, seed=7) for one, how in zip(asked, hows, strict=True)]
    streamed: list[list[int]] = [[] for _ in jobs]
    for job, tokens in zip(jobs, streamed, strict=True):
        job.on_token = tokens.append
    found = served(predictor, jobs, pauses, rows)
    for one, how, ours, tokens in zip(asked, hows, found, streamed, strict=True):
        batch = predictor.batch([one])
        (alone,) = predictor.task.answer(batch, how, 7)
        assert [row[0] for row in ours] == [row.tokens.tolist() for row in alone]
        assert [row[1] for row in ours] == pytest.approx([row.score for row in alone], abs=1e-5)
        assert [row[2] for row in ours] == [row.finished for row in alone]
        assert tokens == ([] if how.width > 1 else ours[0][0])


def test_who_leaves_is_written_no_more(predictor: Predictor) -> None:
    service = Service(predictor, Batching(wait_ms=1), Limits())
    name = predictor.form.fields[0]
    (asked,) = predictor.read([{name: "a film"}])
    for how in (Decoding(100_000, temperature=2.0), Decoding(100_000, width=2, length_penalty=50)):
        endless = service.job(asked, how)
        begun = threading.Event()
        endless.on_token = lambda _, begun=begun: begun.set()
        service = Service(predictor, Batching(wait_ms=1), Limits())
        service.start()
        service.queue.put([endless])
        if how.width == 1:
            assert begun.wait(10)
        endless.abandon()
        quick = service.job(asked, Decoding(2))
        service.queue.put([quick])
        assert len(quick.answer.result(10)[0].tokens) <= 2
        service.close()
        service.thread.join(10)
        assert not service.thread.is_alive()


def test_a_failing_step_ends_those_in_it_and_no_more(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(predictor, Batching(wait_ms=1), Limits())
    name = predictor.form.fields[0]
    (asked,) = predictor.read([{name: "a film"}])
    head = predictor.task.model.head
    scores = head.scores
    monkeypatch.setattr(head, "scores", lambda hidden: scores(hidden) * torch.nan)
    failing, after = service.job(asked, Decoding(3)), service.job(asked, Decoding(3))
    service.start()
    service.queue.put([failing])
    with pytest.raises(RuntimeError, match="the model failed"):
        failing.answer.result(10)
    monkeypatch.undo()
    service.queue.put([after])
    assert len(after.answer.result(10)) == 1
    service.close()
    service.thread.join(10)
