"""`seqlab.load` and `predict`: the same answers alone and in company, in order, as they come."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import seqlab
from seqlab.data.examples import Examples
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError
from seqlab.inference import predictor as module
from seqlab.inference.predictor import as_dataset, likeliest
from seqlab.models.decoding import Decoding, generate
from seqlab.ragged import Ragged
from tiny_bundles import save
from typing_words import REPOSITORY, Outcome

ITEMS = {
    "classification": [{"text": "a film"}, {"text": ""}, {"text": "x" * 90}, {"text": "fine", "pair": "film"}],
    "tagging": [{"text": "Ann saw Rome."}, {"words": ["Rome"]}, {"words": []}, {"text": "é " * 30}],
    "seq2seq": [{"source": "a b"}, {"source": "", "target_prefix": "Zo"}, {"source": "c" * 40}, {"source": "a"}],
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
        assert read <= min(2 * number, number + module.ITEMS_AT_ONCE)
    long = ({"text": f"{i} {'x' * 2**21}"} for i in range(99))
    assert [len(window) for window in islice(module._windows(long), 4)] == [1, 2, 2, 2]


def test_classes_can_be_the_likeliest_only(bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["classification"])
    (both,), (one,) = predictor.predict([{"text": "a"}]), predictor.predict([{"text": "a"}], top_k=1)
    assert list(both["probabilities"].values()) == sorted(both["probabilities"].values(), reverse=True)
    assert one["probabilities"] == {both["label"]: both["probabilities"][both["label"]]}
    for task in ("tagging", "language_modeling", "seq2seq"):
        with pytest.raises(InputError, match="top_k=2: this model lists neither classes nor candidates for a mask"):
            seqlab.load(bundles[task]).predict([{"text": "a"}], top_k=2)
    with pytest.raises(InputError, match="top_k=0: expected at least 1"):
        predictor.predict([], top_k=0)


def test_chosen_classes_keep_their_probabilities(tmp_path: Path) -> None:
    shares = {"a": 0.9, "b": 0.7, "c": 0.6, "d": 0.4, "e": 0.1}
    answer = {"label": ["a", "b", "c"], "probabilities": shares}
    assert list(likeliest(answer, 2)["probabilities"].items()) == list(shares.items())[:3]
    assert list(likeliest(answer, 4)["probabilities"]) == ["a", "b", "c", "d"]
    assert likeliest(answer, None) == answer
    assert likeliest({"label": "abc", "probabilities": {"abc": 0.9, "a": 0.1}}, 1)["probabilities"] == {"abc": 0.9}


def test_candidates_for_a_mask_can_be_fewer_or_more(bundles: dict[str, Path]) -> None:
    predictor, item = seqlab.load(bundles["masked_language_modeling"]), {"text": "a <mask>f<mask>"}
    told = {top_k: predictor.predict([item], top_k=top_k)[0] for top_k in (None, 1, 3, 9, 10**6)}
    assert {top_k: [len(place) for place in one["masks"]] for top_k, one in told.items()} == {
        None: [5, 5], 1: [1, 1], 3: [3, 3], 9: [9, 9], 10**6: [20, 20],
    }  # fmt: skip
    assert [place[:5] for place in told[9]["masks"]] == told[None]["masks"]


def test_a_model_of_single_texts_takes_no_pair(tmp_path: Path) -> None:
    predictor = seqlab.load(save(tmp_path, "classification", fields=("text", "label")))
    plain, null = predictor.predict([{"text": "a"}, {"text": "a", "pair": None}])
    assert near(plain, null)
    with pytest.raises(ValueError, match=r'item 2: the model reads single texts: .* \{"text": .*\}, and no "pair"'):
        predictor.predict([{"text": "a"}, {"text": "a", "pair": ""}])


def test_a_model_of_pairs_asks_for_both(tmp_path: Path) -> None:
    predictor = seqlab.load(save(tmp_path / "pairs", "classification", fields=("text", "pair", "label")))
    pair = json.loads(predictor.example)
    assert pair.keys() == {"text", "pair"}
    both, none, empty = predictor.predict([pair, {**pair, "pair": None}, {**pair, "pair": ""}])
    single = seqlab.load(save(tmp_path / "single", "classification"))
    assert near(single.predict([pair, {"text": pair["text"]}, {**pair, "pair": ""}]), [both, none, empty])
    assert len({one["probabilities"]["good"] for one in (both, none, empty)}) == 3
    with pytest.raises(
        ValueError, match=r'item 2: the model reads pairs: .* \{"text": "Is it far\?", "pair": "Two miles'
    ):
        predictor.predict([pair, {"text": "a"}])


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


@pytest.mark.parametrize("width", [1, 3])
def test_a_target_goes_on_from_its_prefix(width: int, bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["seq2seq"])
    task, write, decoding = predictor.task, predictor.vocabularies.written, Decoding(6, width=width)
    prefixes = ["", "A", "ABC " * 9, "Zoë", "A"]
    items = [{"source": source, "target_prefix": prefix} for source in ("a b", "") for prefix in prefixes]
    told = predictor.predict(items, decoding)
    for item, answer in zip(items, told, strict=True):
        ids = write.encode([item["target_prefix"]])[0]
        source = predictor.vocabularies.tokenizer.encode([item["source"]])[0]
        with torch.no_grad():
            state = task.model.remember(Ragged.from_list([torch.tensor([*source, write.end])]))
        prompt = Ragged.from_list([torch.tensor([write.end, *ids])])
        ((best, *_),) = generate(task.model, prompt, write.end, decoding, state=state)
        assert answer["target"] == write.decode([*ids, *best.tokens.tolist()])
        assert answer["target"].startswith(item["target_prefix"])
    assert len({answer["target"] for answer in told}) > 4
    assert predictor.predict([{"source": "a b"}], decoding)[0] == told[0]
    with pytest.raises(ValueError, match="item 1: target_prefix: expected a text"):
        predictor.predict([{"source": "a", "target_prefix": 3}])


def test_source_and_prefix_have_positions_of_their_own(bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["seq2seq"])
    predictor.room = 7  # six bytes and an end mark, on either side
    assert predictor.predict([{"source": "a" * 6, "target_prefix": "b" * 6}])[0]["target"].startswith("bbbbbb")
    for item in ({"source": "a" * 7}, {"source": "a", "target_prefix": "b" * 7}):
        with pytest.raises(InputError, match="8 tokens, and this model knows 7 positions"):
            predictor.predict([item])


def test_a_complete_target_is_not_looked_at(bundles: dict[str, Path]) -> None:
    """While judging, the model must not begin with what is right."""
    predictor = seqlab.load(bundles["seq2seq"])
    preprocessor, vocabularies = predictor.preprocessor, predictor.vocabularies
    targets = ["A B", "", "C" * 9]
    answers = []
    for given in (targets, targets[::-1]):
        records = pa.table({"source": ["a b", "c", "d"], "target": given})
        examples = Examples(as_dataset(preprocessor.tokenize(records, vocabularies, Rejects())))
        batch = examples.batch(range(3))
        answers.append(
            {
                i: found[0].tokens.tolist()
                for i, found in zip(batch.ids.tolist(), predictor.task.predict(batch), strict=True)
            }
        )
    assert answers[0] == answers[1]
    told = predictor.predict([{"source": source} for source in ("a b", "c", "d")])
    assert [vocabularies.written.decode(answers[0][i]) for i in range(3)] == [answer["target"] for answer in told]


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
    tagger = seqlab.load(bundles["tagging"])
    tagger.most_words = 2
    assert len(tagger.predict([{"words": ["Ann", "ran"]}, {"words": []}])) == 2
    with pytest.raises(InputError, match="item 2: 3 words, and this model knows 2 positions"):
        tagger.predict([{"words": ["Ann", "ran"]}, {"text": "Ann ran."}])


def test_what_is_no_text_is_told_by_its_number(bundles: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"item 2: .*surrogates not allowed"):
        seqlab.load(bundles["classification"]).predict([{"text": "a"}, {"text": "\ud800"}])


def test_what_an_answer_takes_the_place_of_is_kept(verb: Callable[..., Outcome], bundles: dict[str, Path]) -> None:
    lines = [{"text": "a", "label": "right", "id": 1}, {"text": "a"}]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, err = verb("predict", f"run={bundles['classification']}", "input=in.jsonl")
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert (first["given"], first["id"], "given" in second) == ({"label": "right"}, 1, False)
    assert first["label"] == second["label"]


def test_a_folder_that_holds_no_bundle_is_told_what_it_is(tmp_path: Path) -> None:
    runs, exported = tmp_path / "runs" / "trec", tmp_path / "exported"
    for name, time in (("old", 10), ("new", 20), ("unfinished", None)):
        (runs / name / "bundle").mkdir(parents=True)
        if time is not None:
            (runs / name / "summary.json").write_text("{}")
            os.utime(runs / name / "summary.json", (time, time))
    exported.mkdir()
    (exported / "export.json").write_text("{}")
    newest = f"this is a folder of runs; the newest that has finished is run={runs / 'new'}"
    for folder, told in (
        (runs, newest),
        (runs.parent, newest),
        (exported, "this is an export, which runs without seqlab (docs/deploy.md); give the run"),
        (runs / "unfinished", "no bundle there; expected a run folder"),
    ):
        with pytest.raises(InputError) as caught:
            seqlab.load(folder)
        assert str(caught.value).startswith(f"run={folder}: {told}")
