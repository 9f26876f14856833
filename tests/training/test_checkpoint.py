"""Saved and restored bit for bit; damage is found; what was there survives a save that fails or is killed."""

from __future__ import annotations

import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import ToyBatches, ToyModel, ToyTask

from faults import Killed, interrupt
from seqlab.data.loader import Position
from seqlab.errors import CheckpointError, InputError
from seqlab.training.averages import Averages
from seqlab.training.checkpoint import CARRIED, FILES, Checkpoint, Checkpoints, distinct_tensors
from seqlab.training.objective import backward
from seqlab.training.optimizers import adamw
from seqlab.training.state import State

Parts = tuple[ToyModel, torch.optim.Optimizer, State]


def trained(steps: int = 2) -> Parts:
    torch.manual_seed(steps)
    model = ToyModel()
    optimizer = adamw(model)
    state = State(step=steps, position=Position(1), best=0.1 + 0.2, best_step=steps, metrics={"loss": 1 / 3})
    for batch in list(ToyBatches().batches(0))[:2]:
        optimizer.zero_grad()
        backward(ToyTask(model), batch, None, state.terms)
        optimizer.step()
    return model, optimizer, state


once_trained = cache(trained)


def save(checkpoints: Checkpoints, step: int, best_step: int) -> Path:
    model, optimizer, _ = once_trained()
    return checkpoints.save(model, optimizer, State(step=step, best=1.0, best_step=best_step))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*"))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def test_everything_is_restored_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer, state = trained()
    carried = {"read": torch.tensor([3, 2]), "0": torch.rand(2, 4)}
    Checkpoints(tmp_path).save(model, optimizer, state, carried)
    draws = torch.rand(5)

    other = ToyModel()
    other_optimizer = adamw(other, lr=0.5)
    checkpoint = Checkpoints(tmp_path).load_latest()
    assert checkpoint is not None
    memory = {"stale": torch.zeros(1)}
    restored = checkpoint.restore(other, other_optimizer, memory)
    assert torch.equal(torch.rand(5), draws)
    assert equal(carried, memory)
    assert equal(model.state_dict(), other.state_dict())
    assert equal(optimizer.state_dict()["state"], other_optimizer.state_dict()["state"])
    assert optimizer.state_dict()["state"][0]["step"].item() == 2
    assert restored.to_json() == state.to_json()
    assert other.out.weight is other.embedding.weight
    assert other_optimizer.param_groups[0]["lr"] == 0.5  # hyper-parameters are the configuration's


def test_optimizers_with_scalars_and_without_state(tmp_path: Path) -> None:
    for make in (torch.optim.Rprop, torch.optim.ASGD, torch.optim.SGD):
        model = ToyModel()
        optimizer: torch.optim.Optimizer = make(model.parameters(), lr=0.1)
        backward(ToyTask(model), next(ToyBatches().batches(0)), None, Averages())
        optimizer.step()
        state = State(step=1)
        checkpoint = Checkpoint.read(Checkpoints(tmp_path / make.__name__).save(model, optimizer, state))
        other = ToyModel()
        other_optimizer: torch.optim.Optimizer = make(other.parameters(), lr=0.1)
        checkpoint.restore(other, other_optimizer)
        assert equal(optimizer.state_dict()["state"], other_optimizer.state_dict()["state"])


def test_tied_weights_are_stored_once_and_nothing_is_pickled(tmp_path: Path) -> None:
    model, optimizer, state = trained()
    folder = Checkpoints(tmp_path).save(model, optimizer, state)
    assert names(folder) == sorted([*FILES, "manifest.json"])
    stored = Checkpoint.read(folder).model
    assert set(stored) == {"embedding.weight", "mix.weight", "mix.bias", "out.bias"} == set(distinct_tensors(model))
    for path in folder.iterdir():
        head = path.read_bytes()[:9]
        assert head[:1] == b"{" or head[8:9] == b"{", "neither JSON nor safetensors"


@pytest.mark.parametrize("name", [*FILES, CARRIED, "manifest.json"])
def test_every_damage_is_found(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer, state = trained()
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 1)
    file = checkpoints.save(model, optimizer, state, {"read": torch.arange(3)}) / name
    content = file.read_bytes()
    randomly = random.Random(name)
    places = [0, len(content) - 1, *(randomly.randrange(len(content)) for _ in range(30))]
    flipped = [content[:i] + bytes([content[i] ^ (1 << randomly.randrange(8))]) + content[i + 1 :] for i in places]
    cut = [content[: randomly.randrange(len(content))] for _ in range(8)]
    for damaged in [*flipped, *cut, b"", content + b" "]:
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            Checkpoint.read(file.parent)
    file.unlink()
    caplog.clear()
    found = checkpoints.load_latest()
    assert found is not None
    assert found.state.step == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert name in caplog.text
    assert "No such file" in caplog.text
    file.write_bytes(content)
    again = checkpoints.load_latest()
    assert again is not None
    assert again.state.step == 2


def test_none_and_none_valid(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load_latest() is None
    for step in (1, 2):
        (save(checkpoints, step, 1) / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"(?s)no valid checkpoint.*step-000000002.*step-000000001"):
        checkpoints.load_latest()


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    saves = [(3, 3, [3]), (6, 3, [3, 6]), (9, 3, [3, 6, 9]), (12, 12, [9, 12]), (15, 12, [12, 15])]
    for step, best_step, kept in saves:
        save(checkpoints, step, best_step)
        assert steps_in(tmp_path) == kept
        assert os.readlink(tmp_path / "last") == f"step-{step:09d}"
        assert os.readlink(tmp_path / "best") == f"step-{best_step:09d}"
    assert checkpoints.load_best().state.step == 12
    assert names(tmp_path) == ["best", "last", "step-000000012", "step-000000015"]
    with pytest.raises(InputError, match=r"checkpoints\.keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_without_an_evaluation_there_is_no_best(tmp_path: Path) -> None:
    model, optimizer, _ = trained(1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, optimizer, State(step=4))
    assert names(tmp_path) == ["last", "step-000000004"]
    with pytest.raises(CheckpointError, match="best"):
        checkpoints.load_best()


def test_going_on_from_before_a_damaged_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 5, 5)
    (save(checkpoints, 10, 5) / "state.json").unlink()
    assert checkpoints.load_latest() is not None
    save(checkpoints, 7, 5)
    assert steps_in(tmp_path) == [5, 7]
    save(checkpoints, 10, 5)
    found = checkpoints.load_latest()
    assert found is not None
    assert found.state.step == 10


def test_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    model, optimizer, state = trained()
    checkpoint = Checkpoint.read(Checkpoints(tmp_path).save(model, optimizer, state))
    wider = ToyModel(width=8)
    before = wider.mix.bias.detach().clone()
    with pytest.raises(InputError, match=r"mix\.bias: saved float32\[6\], now float32\[8\]"):
        checkpoint.restore(wider, adamw(wider))
    assert torch.equal(wider.mix.bias, before)
    with pytest.raises(InputError, match=r"now float64\[6, 6\]"):
        checkpoint.restore_model(ToyModel().double())
    frozen = ToyModel()
    frozen.mix.requires_grad_(False)
    with pytest.raises(InputError, match=r"does not train mix\.bias, mix\.weight"):
        checkpoint.restore(frozen, adamw(frozen))


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(Checkpoints(tmp_path), 1, 1)
    monkeypatch.setattr("seqlab.training.checkpoint.FORMAT_VERSION", 3)
    told = "format is 2, and this seqlab reads format 3: continue the run with the seqlab that began it"
    with pytest.raises(CheckpointError, match=told):
        Checkpoint.read(folder)


# ---------------------------------------------------------------------------------- interrupted at every file operation


@pytest.mark.parametrize("error", [Killed, OSError])
def test_a_save_cut_short_anywhere_leaves_whole_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    total = at = 1
    while at <= total:
        folder = tmp_path / str(at)
        checkpoints = Checkpoints(folder, keep=1)
        save(checkpoints, 1, 1)
        save(checkpoints, 2, 1)
        with monkeypatch.context() as patch:
            interrupt(patch, at, error)
            try:
                save(checkpoints, 3, 3)
            except (Killed, OSError):
                total = max(total, at + 1)
        visible = steps_in(folder)
        assert visible, f"operation {at}"
        for step in visible:
            Checkpoint.read(folder / f"step-{step:09d}")
        found = Checkpoints(folder, keep=1).load_latest()
        assert found is not None
        assert found.state.step in (2, 3)
        assert Checkpoints(folder).load_best().state.step == (1 if found.state.step == 2 else 3)
        save(Checkpoints(folder, keep=1), 4, 4)
        assert names(folder) == ["best", "last", "step-000000004"], f"operation {at}"
        at += 1
    assert total > 20


def test_the_same_step_again_is_never_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 40):
        folder = tmp_path / str(at)
        save(Checkpoints(folder), 1, 1)
        with monkeypatch.context() as patch:
            interrupt(patch, at, Killed)
            try:
                save(Checkpoints(folder), 1, 1)
                finished = True
            except Killed:
                finished = False
        found = Checkpoints(folder).load_latest()
        assert found is not None, f"operation {at}"
        if finished:
            break
    assert at > 15
