"""The settings of a server, and what it counts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny_bundles import TASKS

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

import seqlab
from seqlab.cli.runs import name_of
from seqlab.errors import InputError
from seqlab.inference.predictor import Request
from seqlab.models.decoding import Decoding
from seqlab.server.service import ServerBatching, ServerLimits, Service


@pytest.mark.parametrize(("section", "target"), [("batching", ServerBatching), ("limits", ServerLimits)])
def test_a_section_lists_every_knob_with_the_default_of_the_signature(section: str, target: type) -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "conf/serve.yaml").read_text())[section]
    assert values == {name: knob.default for name, knob in inspect.signature(target).parameters.items()}


def test_a_queue_has_room_for_every_request() -> None:
    with pytest.raises(InputError, match=r"limits\.queue=8: .*limits\.items=32; set limits\.queue=32"):
        ServerLimits(queue=8)
    with pytest.raises(InputError, match=r"limits\.drain_s=nan: expected more than 0"):
        ServerLimits(drain_s=float("nan"))
    assert ServerLimits(queue=8, items=8)


@pytest.mark.parametrize("name", ["classification", "tagging", "language_modeling", "seq2seq-transformer"])
def test_it_begins_with_a_batch_as_large_as_may_be(
    name: str, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(seqlab.load(bundles[name]), ServerBatching(tokens=2000, rows=20), ServerLimits())
    answers, computed = service.predictor.answers, list[int]()

    def counted(asked: Sequence[Request], *how: Any) -> Any:
        computed.append(sum(one.tokens for one in asked))
        return answers(asked, *how)

    monkeypatch.setattr(service.predictor, "answers", counted)
    service.warm_up()
    assert len(computed) == 1
    assert 1500 < computed[0] <= 2000
    service = Service(seqlab.load(bundles[name]), ServerBatching(tokens=4, rows=20), ServerLimits())
    service.warm_up()


def test_it_begins_with_texts_as_long_as_positions_go(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(seqlab.load(bundles["classification"]), ServerBatching(tokens=2000, rows=20), ServerLimits())
    monkeypatch.setattr(service.predictor, "room", 60)
    answers, computed = service.predictor.answers, list[int]()
    monkeypatch.setattr(
        service.predictor,
        "answers",
        lambda asked, *how: (computed.extend(one.tokens for one in asked), answers(asked, *how))[1],
    )
    service.warm_up()
    assert 30 < min(computed) == max(computed) <= 60


def test_a_service_says_what_its_model_is(bundles: dict[str, Path]) -> None:
    kinds = {task: Service(seqlab.load(bundles[task]), ServerBatching(), ServerLimits()).kind for task in TASKS}
    assert kinds == {
        "classification": "classification, one class",
        "tagging": "tagging",
        "seq2seq": "sequence to sequence",
        "language_modeling": "language modeling",
        "masked_language_modeling": "masked language modeling",
    }


def test_a_run_is_called_by_its_name(tmp_path: Path) -> None:
    dated = tmp_path / "csv-classification-lstm" / "2026-11-29_19-54-26-2"
    (dated / "bundle").mkdir(parents=True)
    assert name_of(dated / "bundle") == "bundle"  # there is no run around it
    (dated / "config.yaml").write_text("name: of another program\n")
    assert name_of(dated / "bundle") == "bundle"
    (dated / "run.json").write_text("{}")
    for name, called in (
        ("null", "csv-classification-lstm"),
        ("questions", "questions"),
        ("7", "7"),
        ("{", "csv-classification-lstm"),  # it is damaged, which does not matter here
    ):
        (dated / "config.yaml").write_text(f"name: {name}\n")
        assert name_of(dated) == name_of(f"{dated}/bundle/") == called
    chosen = tmp_path / "run"
    chosen.mkdir()
    (chosen / "config.yaml").write_text("name: null\n")
    (chosen / "run.json").write_text("{}")
    assert name_of(chosen) == "run"


def test_what_is_written_is_counted_as_it_is_written(bundles: dict[str, Path]) -> None:
    predictor = seqlab.load(bundles["language_modeling"])
    service = Service(predictor, ServerBatching(wait_ms=1), ServerLimits())

    def count(name: str) -> float:
        value = service.metrics.registry.get_sample_value(f"seqlab_{name}")
        assert value is not None
        return value

    asked = predictor.read([{"text": "a film"}, {"text": "a"}, {"text": "film"}])
    hows = [Decoding(6), Decoding(40, temperature=1.0), Decoding(6, width=2)]
    jobs = [service.job(*pair) for pair in zip(asked, hows, strict=True)]
    rows, streamed = list[float](), list[int]()
    jobs[0].on_token += [lambda _: rows.append(count("running_rows")), streamed.append]
    jobs[1].on_token += [streamed.append, lambda _: jobs[1].abandon()]
    service.start()
    service.queue.put(jobs)
    found = [job.answer.result(10) for job in jobs]
    service.close()
    service.thread.join(10)
    assert len(found[1][0].tokens) <= 1
    assert count("tokens_written_total") == len(streamed) + len(found[2][0].tokens)
    assert count("first_token_seconds_count") == sum(len(texts[0].tokens) > 0 for texts in found[:2])
    assert count("queue_seconds_count") == 3
    assert count("step_seconds_count") >= max(len(texts[0].tokens) for texts in found)
    assert max(rows) > 1
    assert count("running_rows") == count("model_failures_total") == count("queue_items") == 0
