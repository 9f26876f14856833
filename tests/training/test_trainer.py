"""The loop: the same numbers however often it is stopped or killed, and nothing half done when something goes wrong."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from toy_training import ToyBatches, ToyModel, ToyTask, fingerprint, lines, sends, toy_trainer

from seqlab.data.batch import Batch
from seqlab.errors import CheckpointError, DataError, InputError, NonFiniteError, StoppedError
from seqlab.tasks.task import StepOutput, Term
from seqlab.training.averages import Averages
from seqlab.training.checkpoint import Checkpoint, Checkpoints
from seqlab.training.objective import backward
from seqlab.training.state import State
from seqlab.training.trainer import Trainer

EXAMPLES, EPOCHS, STEPS = 23, 3, 18


def fit(trainer: Trainer) -> Trainer:
    with trainer.log:
        trainer.fit()
    return trainer


def resumed(folder: Path, **options: Any) -> Trainer:
    trainer = toy_trainer(folder, **options)
    torch.rand(7)  # the random state must come from the checkpoint
    trainer.resume()
    return trainer


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Every scalar that TensorBoard shows, without timings, by tag and step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = [(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert max(Counter((tag, step) for tag, step, _ in found).values()) == 1, "a point is shown twice"
    return {(tag, step): value for tag, step, value in found if not tag.startswith("perf/") or "padding" in tag}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An uninterrupted run: its fingerprint and folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reference")
    return fingerprint(fit(toy_trainer(folder)), folder), folder


# ------------------------------------------------------------------------------------------------ stopping and resuming


@pytest.mark.parametrize(
    ("number", "places", "validation"),
    [
        (signal.SIGTERM, [(0, 0)], []),  # in the first step
        (signal.SIGTERM, [(0, 2), (0, 3), (2, 1)], []),  # three times, twice in one epoch
        (signal.SIGINT, [(0, 5), (2, 5)], []),  # at the end of an epoch, and of the run
        (signal.SIGTERM, [], [(0, 0)]),  # in the first evaluation
        (signal.SIGTERM, [(1, 3)], [(0, 1)]),
    ],
)
def test_stopped_and_resumed_is_uninterrupted(
    tmp_path: Path,
    reference: tuple[str, Path],
    number: signal.Signals,
    places: list[tuple[int, int]],
    validation: list[tuple[int, int]],
) -> None:
    at, at_validation = sends(number, *places), sends(number, *validation)
    seen: list[tuple[int, int]] = []
    codes: list[int] = []
    trainer = toy_trainer(tmp_path, at=at, at_validation=at_validation)
    while True:
        data = trainer.train
        assert isinstance(data, ToyBatches)
        try:
            fit(trainer)
            break
        except StoppedError as error:
            codes.append(error.exit_code)
        finally:
            seen += data.seen
        trainer = resumed(tmp_path, at=at, at_validation=at_validation)
    assert codes == [128 + number] * (len(places) + len(validation))
    assert fingerprint(trainer, tmp_path) == reference[0]
    assert scalars(tmp_path) == scalars(reference[1])
    assert Counter(seen) == Counter((epoch, i) for epoch in range(EPOCHS) for i in range(EXAMPLES))


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path, reference: tuple[str, Path]) -> None:
    """`kill -9`: before the first checkpoint, twice in one epoch, while evaluating, at the last step."""
    script = Path(__file__).with_name("toy_training.py")
    places = ["0,1", "0,4", "0,5", "0,1,v", "2,5"]
    command = [sys.executable, str(script), str(tmp_path), *places]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == reference[0]
    assert scalars(tmp_path) == scalars(reference[1])
    assert lines(tmp_path) == lines(reference[1])


def test_resuming_needs_the_random_state(tmp_path: Path, reference: tuple[str, Path]) -> None:
    """The fingerprint sees dropout: without restoring the random state the numbers differ."""
    with pytest.raises(StoppedError):
        fit(toy_trainer(tmp_path, at=sends(signal.SIGTERM, (1, 2))))
    trainer = resumed(tmp_path)
    torch.manual_seed(5)
    assert fingerprint(fit(trainer), tmp_path) != reference[0]


def test_resuming_a_finished_run_does_nothing_more(tmp_path: Path, reference: tuple[str, Path]) -> None:
    fit(toy_trainer(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    trainer = fit(resumed(tmp_path))
    assert isinstance(trainer.train, ToyBatches)
    assert trainer.train.seen == []
    assert fingerprint(trainer, tmp_path) == reference[0]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_resuming_without_a_checkpoint_starts_anew(tmp_path: Path, reference: tuple[str, Path]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 0.0}\n{"step": 2, "sp')
    trainer = toy_trainer(tmp_path)
    trainer.resume()
    assert fingerprint(fit(trainer), tmp_path) == reference[0]


def test_damaged_checkpoints_do_not_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(toy_trainer(tmp_path, max_steps=9))
    trainer = toy_trainer(tmp_path)
    folders = sorted((tmp_path / "checkpoints").glob("step-*"))
    (folders[-1] / "model.safetensors").write_bytes(b"x")
    trainer.resume()
    assert trainer.state.step < 9
    assert "model.safetensors: not the file that was written" in caplog.text
    for folder in folders:
        (folder / "rng.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        trainer.resume()
    assert caught.value.exit_code == 3


def test_signal_that_ends_the_workers_first(tmp_path: Path, reference: tuple[str, Path]) -> None:
    def at(epoch: int, number: int) -> None:
        if (epoch, number) == (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
            raise DataError("a worker has died")

    with pytest.raises(StoppedError, match="SIGTERM"):
        fit(toy_trainer(tmp_path, at=at))
    trainer = resumed(tmp_path)
    assert trainer.state.step == 9
    assert fingerprint(fit(trainer), tmp_path) == reference[0]


def test_an_evaluation_is_left_at_once(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, at_validation=sends(signal.SIGTERM, (0, 0)))
    assert isinstance(trainer.validation, ToyBatches)
    with pytest.raises(StoppedError):
        fit(trainer)
    assert len(trainer.validation.seen) == trainer.validation.size
    assert (trainer.state.step, trainer.state.evaluated) == (5, 0)


def test_handlers_are_given_back_and_data_errors_pass(tmp_path: Path) -> None:
    def at(epoch: int, number: int) -> None:
        raise DataError("a worker has died")

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(DataError):
        fit(toy_trainer(tmp_path, at=at))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


# ----------------------------------------------------------------------------------------------------- what it computes


def test_a_step_is_the_textbook(tmp_path: Path) -> None:
    """Two steps by hand: objective, clipping, schedule, AdamW."""
    model = ToyModel(dropout=0.0)
    trainer = toy_trainer(tmp_path, model=model, max_steps=2, clip=0.5)
    by_hand = ToyModel(dropout=0.0)
    by_hand.load_state_dict(model.state_dict())
    plain = torch.optim.AdamW(
        [
            {"params": [by_hand.embedding.weight, by_hand.mix.weight], "weight_decay": 0.1},
            {"params": [by_hand.mix.bias, by_hand.out.bias], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    for step, batch in zip(range(2), ToyBatches().batches(0), strict=False):
        plain.zero_grad()
        backward(ToyTask(by_hand), batch, None, Averages())
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        for group in plain.param_groups:
            group["lr"] = 0.02 * (1 / 3, 0.1 + 0.9 / 2)[step]  # of the warm-up; of the cosine, half way
        plain.step()
    fit(trainer)
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert lines(tmp_path)[0]["lr"] == plain.param_groups[0]["lr"]


def test_logged_averages_weigh_every_token_alike(tmp_path: Path) -> None:
    """With a learning rate of almost 0 the logged loss is that of the batches, token by token."""
    model = ToyModel(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    fit(toy_trainer(tmp_path, model=model, optimizer=optimizer, max_epochs=1, log_every=100, eval_every=100))
    whole = ToyBatches().whole
    with torch.no_grad():
        scores_TV = model(whole.tokens)
    [train, validation] = lines(tmp_path)
    assert train["loss"] == pytest.approx(float(nn.functional.cross_entropy(scores_TV, whole.targets.values)), rel=1e-6)
    assert train["accuracy"] == float((scores_TV.argmax(1) == whole.targets.values).double().mean())
    assert (train["tokens"], train["sequences"], train["epoch"]) == (whole.tokens.layout.total, EXAMPLES, 1)
    assert train["batch_tokens"] == pytest.approx(train["tokens"] / 6)
    cells = sum(len(b) * b.tokens.layout.longest for b in ToyBatches().batches(0))
    assert train["padding_fraction"] == pytest.approx(1 - train["tokens"] / cells)
    assert validation["best_loss"] == validation["loss"]


def test_how_often_one_evaluates_changes_nothing(tmp_path: Path) -> None:
    weights = []
    for every in (1, 7, 1000):
        trainer = fit(toy_trainer(tmp_path / str(every), eval_every=every, save_every=every))
        weights.append([p.detach().clone() for p in trainer.task.model.parameters()])
    for other in weights[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights[0], other, strict=True))


@pytest.mark.parametrize(
    ("limit", "steps"),
    [({"max_steps": 7}, 7), ({"max_epochs": 2}, 12), ({"max_tokens": 100}, 6), ({"max_minutes": 1e-9}, 1)],
)
def test_every_limit_ends_with_an_evaluation_and_a_checkpoint(
    tmp_path: Path, limit: dict[str, Any], steps: int
) -> None:
    trainer = fit(toy_trainer(tmp_path, **limit))
    state = trainer.state
    assert state.step == steps
    assert trainer.ended_by == "".join(f"trainer.{name}={value}" for name, value in limit.items())
    assert ("validation", state.step) in {(point["split"], point["step"]) for point in lines(tmp_path)}
    assert state.evaluated == state.step
    latest = Checkpoints(tmp_path / "checkpoints").load_latest()
    assert latest is not None
    assert latest.state.to_json() == state.to_json()
    assert sum(point["split"] == "train" for point in lines(tmp_path)) == -(-state.step // 4)


class Worsening(ToyTask):
    """Evaluations that are no numbers, or get worse, save for the second and the fourth."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.values: Iterator[float] = iter([math.nan, 3.0, 4.0, 2.0, 2.0, math.nan, 5.0, 1.0])
        self.evaluating = False

    def step(self, batch: Batch) -> StepOutput:
        self.evaluating = not self.model.training
        return super().step(batch)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        shown = super().metrics(averages, tallies)
        evaluating, self.evaluating = self.evaluating, False  # the first call is for all lengths together
        return {**shown, "loss": next(self.values)} if evaluating else shown


def test_patience_and_the_best(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, eval_every=1, log_every=100, patience=3, max_epochs=9)
    published: list[int] = []
    trainer.task = Worsening(trainer.task.model)
    trainer.publish = lambda: published.append(trainer.state.step)
    fit(trainer)
    assert (trainer.state.step, trainer.ended_by) == (7, "trainer.patience=3")
    assert (trainer.state.best, trainer.state.best_step, trainer.state.stale) == (2.0, 4, 3)
    assert trainer.state.summary()["validation_best"]["loss"] == 2.0
    assert published == [2, 4]
    assert Checkpoints(tmp_path / "checkpoints").load_best().state.step == 4
    best_steps = [point.get("best_step") for point in lines(tmp_path) if point["split"] == "validation"]
    assert best_steps == [None, 2, 2, 4, 4, 4, 4]


# -------------------------------------------------------------------------------------------- when something goes wrong


class Poisoned(ToyTask):
    """The objective, or one gradient, is not finite from the given step on."""

    def __init__(self, model: nn.Module, at: int, what: str) -> None:
        super().__init__(model)
        self.at, self.what, self.calls = at, what, 0

    def step(self, batch: Batch) -> StepOutput:
        output = super().step(batch)
        self.calls += self.model.training
        if self.calls >= self.at:
            term = output.terms["loss"]
            if self.what == "loss":
                output.terms["loss"] = Term(term.sum * torch.nan, term.count, term.weight)
            else:
                term.sum.register_hook(lambda gradient: gradient * torch.inf)
        return output


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_leaves_the_weights_alone(tmp_path: Path, what: str) -> None:
    trainer = toy_trainer(tmp_path, micro_tokens=None, save_every=6)
    trainer.task = Poisoned(trainer.task.model, 7, what)
    with pytest.raises(NonFiniteError) as caught:
        fit(trainer)
    assert caught.value.exit_code == 5
    ids = next(ToyBatches().batches(1)).ids.tolist()
    assert f"step 7: the loss is {'nan' if what == 'loss' else ''}" in str(caught.value)
    assert f"examples {', '.join(map(str, ids))}." in str(caught.value)
    saved = Checkpoint.read(tmp_path / "checkpoints" / "step-000000006")
    assert all(torch.equal(saved.model[name], p) for name, p in trainer.task.model.named_parameters())


def test_a_periodic_save_may_fail(
    tmp_path: Path, reference: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = toy_trainer(tmp_path)
    save = trainer.checkpoints.save

    def failing(model: nn.Module, optimizer: torch.optim.Optimizer, state: Any, carried: dict[str, Tensor]) -> Path:
        if state.step == 6:
            raise OSError(28, "No space left on device")
        return save(model, optimizer, state, carried)

    trainer.checkpoints.save = failing  # type: ignore[method-assign]
    fit(trainer)
    assert fingerprint(trainer, tmp_path) == reference[0]
    assert [(r.levelname, "step 6 could not be saved" in r.message) for r in caplog.records] == [("WARNING", True)]


def test_the_final_save_may_not(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=2)

    def failing(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    trainer.checkpoints.save = failing  # type: ignore[assignment, method-assign]
    with pytest.raises(OSError, match="No space left"):
        fit(trainer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": None}, r"trainer\.max_steps, "),
        ({"max_steps": -1}, r"trainer\.max_steps=-1"),
        ({"clip": 0.0, "log_every": 0}, r"trainer\.clip=0\.0, trainer\.log_every=0"),
        ({"micro_tokens": 0, "patience": 0}, r"trainer\.micro_tokens=0, trainer\.patience=0"),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy_trainer(tmp_path, **options)


def test_micro_batch_too_small_and_no_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.micro_tokens"):
        fit(toy_trainer(tmp_path, micro_tokens=2))
    trainer = toy_trainer(tmp_path / "empty")
    trainer.train = ToyBatches(examples=0)
    with pytest.raises(InputError, match="no batch"):
        fit(trainer)


def test_the_loop_fits_on_a_page() -> None:
    import inspect

    source = Path(inspect.getfile(Trainer)).read_text().splitlines()
    assert len(source) <= 250
    assert len(inspect.getsource(Trainer.fit).splitlines()) <= 60


def test_utilization_is_over_all_starts(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        fit(toy_trainer(tmp_path, at=sends(signal.SIGTERM, (1, 2))))
    trainer = resumed(tmp_path)
    trainer.throughput.gemm_peak = 4e15  # on another machine
    before = trainer.state.to_json()
    state = fit(trainer).state
    assert state.useful_flops == 1000 * state.tokens
    later = 4e15 * (state.step_seconds - before["step_seconds"])
    assert state.possible_flops == pytest.approx(before["possible_flops"] + later)
    assert state.summary()["useful_flops_utilization"] == state.useful_flops / state.possible_flops > 0
    with pytest.raises(ValueError, match="fields"):
        State.from_json({**before, "surplus": 1})
    del before["tokens"]
    with pytest.raises(ValueError, match="fields"):
        State.from_json(before)


def test_summary_is_json(tmp_path: Path) -> None:
    summary = fit(toy_trainer(tmp_path)).state.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["steps"], summary["epochs"], summary["sequences"]) == (STEPS, EPOCHS, EPOCHS * EXAMPLES)
    assert 0 < summary["padding_fraction"] < 1
    assert summary["wall_s"] > 0
