from __future__ import annotations

import pytest
import torch
from toy_training import ToyBatches, ToyModel, ToyTask

from seqlab.data.batch import Batch
from seqlab.ragged import Layout, Ragged
from seqlab.training.evaluation import evaluate


def test_average_is_over_tokens_and_not_over_batches() -> None:
    torch.manual_seed(0)
    task, batches = ToyTask(ToyModel().double()), ToyBatches(examples=13, size=3)
    found = evaluate(task, batches.batches(0), micro_tokens=8)
    with torch.no_grad():
        task.model.eval()
        scores_TV = task.model(batches.whole.tokens)
        loss = torch.nn.functional.cross_entropy(scores_TV, batches.whole.targets.values)
        right = (scores_TV.argmax(1) == batches.whole.targets.values).double().mean()
    assert found["loss"] == pytest.approx(float(loss), rel=1e-12)
    assert found["accuracy"] == pytest.approx(float(right), rel=1e-12)


def test_leaves_mode_random_state_and_gradients_alone() -> None:
    class Sampling(ToyModel):
        def forward(self, tokens: object) -> torch.Tensor:
            torch.rand(3)
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(tokens)  # type: ignore[arg-type]

    task = ToyTask(Sampling())
    for training in (True, False):
        task.model.train(training)
        before = torch.get_rng_state()
        evaluate(task, ToyBatches().batches(0))
        assert torch.equal(before, torch.get_rng_state())
        assert task.model.training is training
    assert all(p.grad is None for p in task.model.parameters())


def test_mode_is_restored_after_a_failure() -> None:
    task = ToyTask(ToyModel())
    with pytest.raises(ZeroDivisionError):
        evaluate(task, (1 / 0 for _ in range(1)))  # type: ignore[misc]
    assert task.model.training


def test_ranges_of_lengths_come_shortest_first() -> None:
    task = ToyTask(ToyModel())
    layout = Layout(torch.tensor([20_000, 5_000, 1, 0, 9_000]))
    tokens = Ragged(torch.zeros(layout.total, dtype=torch.int64), layout)
    batch = Batch(tokens, tokens, torch.arange(5), layout.lengths)
    found = evaluate(task, [batch])["by_length"]
    assert list(found) == ["0000", "0001-0001", "4096-8191", "8192-16383", "16384-32767"]
