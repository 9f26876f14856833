"""`seqlab.load` and `predict`: the same answers alone and in company, in order, as they come."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_words import REPOSITORY, Outcome

import seqlab
from seqlab.errors import InputError
from seqlab.models.decoding import Decoding
from seqlab.serving import predictor as module

ITEMS = {
    "classification": [{"text": "a film"}, {"text": ""}, {"text": "x" * 90}, {"text": "fine", "pair": "film"}],
    "tagging": [{"text": "Ann saw Rome."}, {"words": ["Rome"]}, {"words": []}, {"text": "é " * 30}],
    "seq2seq": [{"source": "a b"}, {"source": ""}, {"source": "c" * 40}, {"source": "a"}],
    "language_modeling": [{"text": "Zoë"}, {"text": ""}, {"text": "b" * 70}, {"text": "a"}],
}


def near(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(near, a, b))
    return a == pytest.approx(b, abs=1e-5) if isinstance(a, float) else a == b


def test_it_loads_without_hydra(bundles: dict[str, Path]) -> None:
    code = f"import sys, seqlab; seqlab.load({str(bundles['tagging'])!r}).predict([{{'text': 'a'}}]); "
    code += "sys.exit(str({'hydra', 'omegaconf', 'fastapi', 'uvicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stderr.strip().endswith("set()"), done.stderr


@pytest.mark.parametrize("task", ITEMS)
def test_windows_and_company_change_nothing(
    task: str, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, items = seqlab.load(bundles[task]), ITEMS[task] * 3
    how = Decoding(5, temperature=1.0) if task in ("seq2seq", "language_modeling") else None
    whole = predictor.predict(items, how, seed=3)
    assert len(whole) == 12
    monkeypatch.setattr(module, "ITEMS_AT_ONCE", 5)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 1)
    assert near(predictor.predict(iter(items), how, seed=3), whole)
    if how is not None:  # each place draws anew
        assert predictor.predict([items[0]] * 9, how, seed=3) != predictor.predict([items[0]] * 9, how, seed=4)
    assert predictor.predict([]) == []


def test_answers_come_before_all_is_read(bundles: dict[str, Path]) -> None:
    read = 0

    def endless() -> Iterator[dict[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield {"text": "film" if read % 7 else ""}

    answers = seqlab.load(bundles["classification"]).stream(endless())
    for number in range(1, 2500):
        assert next(answers)["label"] in ("good", "bad")
        assert read <= number + module.ITEMS_AT_ONCE


def test_classes_can_be_the_likeliest_only(bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["classification"])
    (both,), (one,) = predictor.predict([{"text": "a"}]), predictor.predict([{"text": "a"}], top_k=1)
    assert list(both["probabilities"].values()) == sorted(both["probabilities"].values(), reverse=True)
    assert one["probabilities"] == {both["label"]: both["probabilities"][both["label"]]}
    with pytest.raises(InputError, match="top_k=2: this model tells no probabilities of classes"):
        seqlab.load(bundles["tagging"]).predict([{"text": "a"}], top_k=2)
    with pytest.raises(InputError, match="top_k=0: expected at least 1"):
        predictor.predict([], top_k=0)


def test_spans_lie_in_the_text_and_have_a_probability(bundles: dict[str, Path]) -> None:
    texts = [f"Ann {'x' * n} Rome, é{n}." for n in range(30)]
    told = seqlab.load(bundles["tagging"]).predict([{"text": text} for text in texts])
    spans = [(text, one, span) for text, one in zip(texts, told, strict=True) for span in one["spans"]]
    assert spans
    for text, one, span in spans:
        first, end = span["words"]
        begin, stop = span["characters"]
        assert text[begin:stop].replace(" ", "") == "".join(one["words"][first:end])
        assert 0 < span["probability"] <= one["probabilities"][first] + 1e-6


def test_a_beam_is_told_with_scores(bundles: dict[str, Path]) -> None:
    (told,) = seqlab.load(bundles["seq2seq"]).predict([{"source": "a"}], Decoding(4, width=3, n_best=3))
    assert told["best"][0]["target"] == told["target"]
    assert [one["score"] for one in told["best"]] == sorted((one["score"] for one in told["best"]), reverse=True)


def test_what_was_answered_before_a_bad_line_stays_printed(
    verb: Callable[..., Outcome], bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = f"run={bundles['classification']}"
    lines = ['{"text": "a"}', "", '{"text": "b", "id": 2}', '{"txt": 1}', '{"text": "c"}']
    Path("in.jsonl").write_text("\n".join(lines))
    code, out, err = verb("predict", run, "input=in.jsonl")
    assert code == 2
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["a", "b"]
    assert "input=in.jsonl, line 4: expected an object such as" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert verb("predict", run, "input=-")[:2] == (2, out)
    Path("out.jsonl").write_text("before")
    code, out, err = verb("predict", run, "input=in.jsonl", "output=out.jsonl")
    assert (code, out) == (2, "")
    assert Path("out.jsonl").read_text() == "before"
    assert {path.name for path in Path().iterdir()} == {"in.jsonl", "out.jsonl"}


def test_an_item_that_is_too_long_is_told_by_its_number(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = seqlab.load(bundles["classification"])
    predictor.room = 5
    answers = predictor.stream([{"text": "a"}, {"text": "b"}, {"text": "too long"}, {"text": "c"}])
    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(InputError, match="item 3: 9 tokens, and this model knows 5 positions"):
        next(answers)
