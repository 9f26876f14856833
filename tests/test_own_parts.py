"""A part of one's own is one file, and one override or one YAML: nothing else is needed to train, keep and load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqlab
from seqlab.errors import InputError
from seqlab.inference.predictor import Predictor
from typing_words import Outcome, tiny

Verb = Callable[..., Outcome]
STEPS = ["trainer.max_steps=2", "schedule.warmup_steps=1", "output_dir=run"]


def trained(verb: Verb, *words: str) -> dict[str, Any]:
    """Train two steps; the summary."""
    code, _, err = verb("train", *words)
    assert code == 0, err
    summary: dict[str, Any] = json.loads(Path("run/summary.json").read_text())
    assert summary["steps"] == 2
    return summary


def loaded(module: str, part: str) -> Predictor:
    """The trained model, whose bundle names the part and is only loaded where its module is trusted."""
    assert f'"{module}:{part}"' in Path("run/bundle/model.json").read_text()
    with pytest.raises(InputError, match=f"not seqlab's own, {module}:.*; if you trust it, add trust={module}"):
        seqlab.load("run")
    return seqlab.load("run", trust=module)


def test_a_cell_of_ones_own(verb: Verb) -> None:
    trained(verb, *tiny("model.cell._target_=my_module.MyCell", *STEPS))
    assert "continuation" in loaded("my_module", "MyCell").predict([{"text": "a"}])[0]


def test_an_encoder_of_ones_own(verb: Verb) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/mine.yaml").write_text("_target_: my_encoder.MyEncoder\nwidth: 8\n")
    words = tiny("model=mine", "trust=my_encoder", *STEPS)
    trained(verb, "--config-dir", "mine", *words)
    assert "continuation" in loaded("my_encoder", "MyEncoder").predict([{"text": "a"}])[0]


def test_a_source_of_ones_own(verb: Verb) -> None:
    given = [word for word in tiny(*STEPS) if not word.startswith("data")]
    trained(verb, "data._target_=my_source.MySource", "+data.rows=25", *given)
    facts = json.loads(Path("run/run.json").read_text())["data_facts"]
    assert {split: found["sequences"] for split, found in facts["splits"].items()} == dict.fromkeys(facts["splits"], 25)
    assert seqlab.load("run").predict([{"text": "1 2"}])  # data does not travel with a model


def test_a_task_of_ones_own(verb: Verb) -> None:
    Path("mine/task").mkdir(parents=True)
    Path("mine/task/mine.yaml").write_text(
        "# @package _global_\nform: {_target_: my_task.SurprisePreprocessor}\n"
        "task:\n  _target_: my_task.Surprise\n"
        "  model: {_target_: seqlab.models.language_model.LanguageModel, tied: true, encoder: '${model}'}\n"
    )
    summary = trained(verb, "--config-dir", "mine", *tiny("task=mine", "trust=my_task", *STEPS))
    assert summary["monitor"] == "loss"
    short, long = loaded("my_task", "Surprise").predict([{"text": "a"}, {"text": "a" * 50}])
    assert 0 < short["surprise"] < long["surprise"]
    code, out, err = verb("evaluate", "run=run", "trust=my_task")
    assert code == 0, err
    assert json.loads(out)["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)


PAIRS = [
    "task=seq2seq", "data=algorithmic", "data.kind=reverse", "data.train=40", "data.validation=8", "data.test=8",
    "tokenizer=words", "model.width=8", "batch.tokens=256", "task.decoding.max_tokens=5",
    "trainer.max_epochs=null", "trainer.eval_every=1",
]  # fmt: skip


def test_a_metric_of_ones_own(verb: Verb) -> None:
    given = "task.metrics=[exact_match,{_target_:my_metric.LengthError}]"
    summary = trained(verb, *PAIRS, given, "task.monitor=length_error", *STEPS)
    assert summary["test"].keys() >= {"loss", "ppl", "exact_match", "length_error"}
    assert summary["test"]["by_length"]
    settings = json.loads(Path("run/run.json").read_text())["decoding_settings"]
    assert settings["LengthError"] == "unit:character"
    points = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    figures = [point["length_error"] for point in points if point["split"] == "validation"]
    assert summary["validation_best"]["length_error"] == min(figures)  # less is better, as the metric says
    assert "target" in loaded("my_metric", "LengthError").predict([{"source": "1 2"}])[0]
    code, out, err = verb("evaluate", "run=run", "trust=my_metric")
    assert code == 0, err
    assert json.loads(out)["length_error"] == summary["test"]["length_error"]


def test_a_metric_of_ones_own_in_a_file_must_be_trusted(verb: Verb) -> None:
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/mine.yaml").write_text(
        "# @package _global_\ntask:\n  metrics: [{_target_: my_metric.LengthError}]\n"
    )
    words = ["--config-dir", "mine", *PAIRS, "experiment=mine", *STEPS]
    code, _, err = verb("train", *words)
    assert code == 2
    assert "task.metrics.0._target_=my_metric.LengthError: neither a part of seqlab nor" in err
    summary = trained(verb, *words, "trust=my_metric")
    assert summary["monitor"] == "length_error"  # its main figure


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task.metrics=[bleus]"], "did you mean bleu?"),
        (["task.metrics=[{_target_: my_module.MyCell}]"], "task.metrics"),
        (["task.metrics=[{_target_: my_metric.LengthErorr}]"], "did you mean LengthError?"),
        (["task.metrics=[exact_match,exact_match]"], "names exact_match twice"),
        (["task.metrics=[chrf]"], "task.metrics=chrf compares with the target's text"),
    ],
)
def test_metrics_that_cannot_be_had_are_told(verb: Verb, words: list[str], told: str) -> None:
    code, _, err = verb("train", *PAIRS, *words, *STEPS)
    assert (code, told in err) == (2, True), err
