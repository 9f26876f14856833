"""precision=bfloat16: products in bfloat16, everything that is kept in float32; test_golden.py has a run's losses."""

from __future__ import annotations

import copy
import signal
from pathlib import Path

import pytest
import torch
from toy_training import ToyBatches, ToyModel, ToyTask, fingerprint, sends, toy_trainer

from seqlab.data.batch import Batch
from seqlab.errors import StoppedError
from seqlab.ragged import Ragged
from seqlab.tasks.task import StepOutput
from seqlab.training.averages import Averages
from seqlab.training.evaluation import evaluate
from seqlab.training.objective import backward
from seqlab.training.precision import in_precision


class Watched(ToyModel):
    """Remembers the format of its products, and what mode it was in."""

    seen: set[tuple[bool, torch.dtype]]

    def forward(self, tokens: Ragged) -> torch.Tensor:
        scores = super().forward(tokens)
        self.seen = {*getattr(self, "seen", set()), (self.training, scores.dtype)}
        return scores


def test_training_and_evaluation_multiply_in_bfloat16_and_keep_float32(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, model=Watched(), precision="bfloat16", max_steps=2)
    with trainer.log:
        trainer.fit()
    model = trainer.task.model
    assert model.seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    kept = [*model.parameters(), *(p.grad for p in model.parameters())]
    kept += [x for entries in trainer.optimizer.state.values() for x in entries.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_float32_is_the_task_itself_and_bfloat16_a_rounding_away() -> None:
    torch.manual_seed(0)
    task, batch = ToyTask(ToyModel(dropout=0.0)), ToyBatches().whole
    assert in_precision(task, "float32") is task
    narrow = in_precision(copy.deepcopy(task), "bfloat16")
    averages = {"loss": 1.0, "penalty": 0.0, "accuracy": 0.5}
    told = [
        (each.monitor, each.counts(batch), each.flops(batch), each.metrics(averages, {})) for each in (task, narrow)
    ]
    assert told[0] == told[1]
    found = [evaluate(each, [batch])["loss"] for each in (task, narrow)]
    assert 0 < abs(found[0] - found[1]) < 0.005 * found[0]
    for each in (task, narrow):
        backward(each, batch, 20, Averages())
    for exact, rounded in zip(task.model.parameters(), narrow.model.parameters(), strict=True):
        assert exact.grad is not None
        assert rounded.grad is not None
        assert 0 < (exact.grad - rounded.grad).norm() < 0.02 * exact.grad.norm()


def test_stopped_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = toy_trainer(tmp_path / "whole", precision="bfloat16")
    with whole.log:
        whole.fit()
    stopped = toy_trainer(tmp_path / "stopped", at=sends(signal.SIGTERM, (1, 2)), precision="bfloat16")
    with pytest.raises(StoppedError), stopped.log:
        stopped.fit()
    resumed = toy_trainer(tmp_path / "stopped", precision="bfloat16")
    torch.rand(7)
    resumed.resume()
    with resumed.log:
        resumed.fit()
    assert fingerprint(resumed, tmp_path / "stopped") == fingerprint(whole, tmp_path / "whole")


def test_a_failing_step_leaves_no_autocast_behind() -> None:
    class Failing(ToyTask):
        def step(self, batch: Batch) -> StepOutput:
            assert torch.is_autocast_enabled("cpu")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_precision(Failing(ToyModel()), "bfloat16").step(ToyBatches().whole)
    assert not torch.is_autocast_enabled("cpu")
