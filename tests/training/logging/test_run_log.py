"""What is told of a run: metrics.jsonl, TensorBoard, the terminal."""

from __future__ import annotations

import io
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from seqlab.errors import NonFiniteError, StoppedError
from seqlab.training.logging import terminal
from seqlab.training.logging.json_lines import MetricsLog, read_points
from seqlab.training.logging.run_log import RunLog
from seqlab.training.logging.tensorboard import flatten, tags
from seqlab.training.logging.terminal import ProgressLine, clock, evaluation_line, training_line
from seqlab.training.state import State

FIGURES = {
    "loss": 0.1 + 0.2,
    "ppl": 1.35,
    "grad_norm": 2.0,
    "lr": 1e-3,
    "batch_tokens": 100.5,
    "batch_seqs": 4.0,
    "padding_fraction": 0.61,
    "tokens_per_s": 12345.6,
    "step_ms": 8.0,
    "data_wait_fraction": 0.01,
    "useful_gflops": 40.0,
    "useful_flops_utilization": 0.4,
    "mem_gb": 0.3,
}
TRAIN_TAGS = {"train/loss", "train/ppl", "train/grad_norm", "train/lr", "data/batch_tokens", "data/batch_seqs"}
PERF_TAGS = {
    "perf/tokens_per_s", "perf/padding_fraction", "perf/step_ms", "perf/data_wait_fraction", "perf/mem_gb",
    "perf/useful_gflops", "perf/useful_flops_utilization",
}  # fmt: skip
CONFIGURATION = {"model": {"dim": 256, "tied": True}, "seed": 1, "lr": 0.5, "name": None, "betas": [0.9, 0.95]}


def make_log(folder: Path, stream: Any = None) -> RunLog:
    return RunLog(folder, CONFIGURATION, "model:\n  dim: 256", [3, 1, 2], stream or io.StringIO())


def tell(log: RunLog) -> None:
    """One point of each kind."""
    log.train_point(State(step=5, tokens=10), FIGURES, seconds_left=83.0)
    metrics = {"loss": 3.0, "best_loss": 2.5, "best_step": 2}
    log.evaluation(State(step=5, evaluated=5), "validation", metrics)
    log.evaluation(State(step=5), "test", {"loss": 2.75})
    log.text("samples", "once upon\n*a* time", 5)


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def hparams(events: EventAccumulator) -> dict[str, plugin_data_pb2.HParamsPluginData]:
    content = events.PluginTagToContent("hparams")
    return {tag: plugin_data_pb2.HParamsPluginData.FromString(data) for tag, data in content.items()}


# ---------------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_shows_the_agreed_tags(tmp_path: Path) -> None:
    with make_log(tmp_path) as log:
        log.start(State())
        tell(log)
    events = events_of(tmp_path)
    expected = TRAIN_TAGS | PERF_TAGS | {"val/loss", "val/best_loss", "test/loss"}
    assert set(events.Tags()["scalars"]) == expected
    assert [(event.step, event.value) for event in events.Scalars("val/best_loss")] == [(5, 2.5)]
    assert events.Histograms("data/lengths")[0].histogram_value.num == 3
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"][1:3]}
    assert texts["configuration/text_summary"] == "    model:\n      dim: 256"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # no sub-runs


def test_hparams_are_a_session_start_and_end_of_this_run(tmp_path: Path) -> None:
    with make_log(tmp_path) as log:
        log.start(State())
    found = hparams(events_of(tmp_path))
    assert set(found) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}  # and no experiment summary
    values = found["_hparams_/session_start_info"].session_start_info.hparams
    assert values["model.dim"].number_value == 256
    assert values["model.tied"].bool_value is True
    assert values["name"].string_value == "None"
    assert values["betas"].string_value == "[0.9, 0.95]"
    end = found["_hparams_/session_end_info"].session_end_info
    assert end.status == api_pb2.STATUS_SUCCESS


@pytest.mark.parametrize(
    ("error", "status"), [(NonFiniteError("x"), api_pb2.STATUS_FAILURE), (StoppedError("x", 15), None)]
)
def test_a_failed_run_that_goes_on_ends_well(tmp_path: Path, error: Exception, status: int | None) -> None:
    with suppress(type(error)), make_log(tmp_path) as log:
        log.start(State())
        raise error
    end = hparams(events_of(tmp_path)).get("_hparams_/session_end_info")
    assert (end and end.session_end_info.status) == status
    with make_log(tmp_path) as log:
        log.start(State(step=3))
    end = hparams(events_of(tmp_path))["_hparams_/session_end_info"]
    assert end.session_end_info.status == api_pb2.STATUS_SUCCESS


def test_tags_and_flattening() -> None:
    assert tags({"split": "train", "step": 1, "epoch": 0.5, "seconds_left": None, "loss": 1.0}) == {"train/loss": 1.0}
    assert tags({"split": "validation", "step": 1, "best_step": 1, "bits_per_byte": 2.0}) == {"val/bits_per_byte": 2.0}
    assert flatten({"a": {"b": {"c": 1}}, "d": "x"}) == {"a.b.c": 1, "d": "x"}


# ------------------------------------------------------------------------------------------------------------- resuming


def test_resuming_drops_what_comes_again(tmp_path: Path) -> None:
    lines = [
        {"step": 4, "split": "train", "loss": 0.1},
        {"step": 4, "split": "validation", "loss": 0.2},
        {"step": 8, "split": "train", "loss": 1 / 3},
        {"step": 8, "split": "validation", "loss": 0.4},
        {"step": 8, "split": "test", "loss": 0.5},
        {"step": 12, "split": "train", "loss": 0.6},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 16, "spl'
    path = tmp_path / "metrics.jsonl"
    for evaluated, kept in ((8, lines[:4]), (4, lines[:3])):
        path.write_text(text)
        log = MetricsLog(tmp_path)
        log.start(State(step=8, evaluated=evaluated))
        log.point({"step": 12, "split": "train", "loss": 0.7})
        log.close("success")
        assert read_points(path) == [*kept, {"step": 12, "split": "train", "loss": 0.7}]


def test_floats_are_exact(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-310, math.pi * 1e300, -0.0]
    log = MetricsLog(tmp_path)
    log.start(State())
    log.point({"step": 1, "split": "train", "values": values, "f1": math.nan})
    log.close("success")
    [point] = read_points(log.path)
    assert [value.hex() for value in point["values"]] == [value.hex() for value in values]
    assert point["f1"] is None


def test_tensorboard_shows_each_point_once_after_resuming(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), make_log(tmp_path) as log:
        log.start(State())
        for step in (2, 4, 6):
            log.train_point(State(step=step), {**FIGURES, "loss": float(step)}, None)
        log.evaluation(State(step=4), "validation", {"loss": 4.0})
        raise KeyboardInterrupt
    with make_log(tmp_path) as again:
        again.start(State(step=4, evaluated=4))
        again.train_point(State(step=6), {**FIGURES, "loss": 60.0}, None)
    events = events_of(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(2, 2.0), (4, 4.0), (6, 60.0)]
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(4, 4.0)]
    assert len(events.Tensors("configuration/text_summary")) == 1
    assert len(events.Histograms("data/lengths")) == 1


# ----------------------------------------------------------------------------------------------------------- what fails


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError("the terminal is gone")


def test_a_failing_writer_is_dropped_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make_log(tmp_path, Broken()) as log:
        log.start(State())
        tell(log)
        tell(log)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "ProgressLine stopped, training goes on without it: the terminal is gone"
    ]
    assert len(read_points(tmp_path / "metrics.jsonl")) == 6
    assert len(events_of(tmp_path).Scalars("train/loss")) == 2


def test_a_folder_that_vanishes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with make_log(tmp_path / "run") as log:
        log.start(State())
        tell(log)
    assert [record.message.split()[0] for record in caplog.records] == ["MetricsLog"]


def test_a_log_that_was_never_started_closes(tmp_path: Path) -> None:
    with make_log(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- the terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    with make_log(tmp_path, stream) as log:
        log.start(State())
        tell(log)
    assert stream.getvalue().splitlines() == [
        "step 5  loss 0.3000  12,346 tokens/s  61 % padding avoided  1:23 left",
        "step 5  validation  loss 3.0000",
        "step 5  test  loss 2.7500",
    ]


def test_a_terminal_has_one_line_cut_to_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    stream = Terminal()
    line = ProgressLine(stream)
    point = {"step": 5, "split": "train", **FIGURES, "seconds_left": None}
    line.start(State(step=4))
    line.point(point)
    line.point({"step": 5, "split": "validation", "loss": 3.0, "best_loss": 3.0, "best_step": 5})
    line.close("success")
    written = stream.getvalue().split("\x1b[2K")[1:]
    assert written == ["continuing after st\n", "step 5  loss 0.3000\r", "step 5  validation \n\n"]


def test_lines_and_clocks() -> None:
    point = {"step": 5, "split": "train", **FIGURES, "seconds_left": None}
    for left in (None, 0.0, 0.4):
        assert training_line({**point, "seconds_left": left}).endswith("61 % padding avoided")
    best = {"step": 5, "split": "validation", "tokens": 9, "loss": 3.0, "ppl": 20.09, "best_loss": 3.0, "best_step": 5}
    assert evaluation_line(best) == "step 5  validation  loss 3.0000  ppl 20.0900  best so far"
    assert [clock(seconds) for seconds in (0, 59.6, 83, 3723)] == ["0:00", "1:00", "1:23", "1:02:03"]
