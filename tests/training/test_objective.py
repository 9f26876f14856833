"""The gradient of a global batch is the same for every split, and exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_training import VOCABULARY, ToyModel, ToyTask

from seqlab.data.batch import Batch
from seqlab.errors import InputError, NonFiniteError
from seqlab.ragged import Layout, Ragged
from seqlab.tasks.task import StepOutput, Term
from seqlab.training.averages import Averages
from seqlab.training.objective import backward, clip_gradient


def make_batch(lengths: list[int]) -> Batch:
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    tokens = torch.randint(VOCABULARY, (layout.total,), generator=torch.Generator().manual_seed(0))
    ids = torch.arange(len(lengths))
    return Batch(Ragged(tokens, layout), Ragged(tokens.flip(0), layout), ids, ids)


def make_task() -> ToyTask:
    torch.manual_seed(0)
    return ToyTask(ToyModel(dropout=0.0).double())


def gradients(task: ToyTask, batch: Batch, micro_tokens: int | None) -> tuple[Tensor, dict[str, Tensor], Averages]:
    task.model.zero_grad()
    averages = Averages()
    loss = backward(task, batch, micro_tokens, averages)
    parameters = task.model.named_parameters()
    return loss, {name: p.grad.clone() for name, p in parameters if p.grad is not None}, averages


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), st.integers(9, 30))
def test_splits_have_the_gradient_of_the_whole(lengths: list[int], micro_tokens: int) -> None:
    task, batch = make_task(), make_batch(lengths)
    loss, whole, averages = gradients(task, batch, None)
    split_loss, split, split_averages = gradients(task, batch, micro_tokens)
    assert largest_difference(whole, split) <= 1e-12
    assert abs(float(loss - split_loss)) <= 1e-12
    for name, value in averages.read().items():
        assert split_averages.read()[name] == pytest.approx(value, rel=1e-12, nan_ok=True)


def test_gradient_is_that_of_the_formula() -> None:
    task, batch = make_task(), make_batch([5, 1, 0, 7])
    _, found, averages = gradients(task, batch, 7)
    task.model.zero_grad()
    scores_TV = task.model(batch.tokens)
    mean = nn.functional.cross_entropy(scores_TV, batch.targets.values)
    penalty = scores_TV.square().mean(1).sum() / 4
    (mean + 0.1 * penalty).backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    assert largest_difference(found, expected) <= 1e-12
    assert averages.read()["loss"] == pytest.approx(mean.item(), rel=1e-12)
    assert averages.read()["penalty"] == pytest.approx(penalty.item(), rel=1e-12)


def test_mean_of_means_would_show() -> None:
    """The lengths used above are uneven enough for the wrong average to differ by far more than the tolerance."""
    task, batch = make_task(), make_batch([5, 1, 7])
    _, right, _ = gradients(task, batch, None)
    task.model.zero_grad()
    parts = batch.split(7)
    for part in parts:
        backward(task, part, None, Averages())
    wrong = {name: p.grad / len(parts) for name, p in task.model.named_parameters() if p.grad is not None}
    assert largest_difference(right, wrong) > 1e-2


def test_term_without_count_adds_nothing() -> None:
    _, found, averages = gradients(make_task(), make_batch([3, 2]), None)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert averages.sums["nothing"] == 0


def test_batch_of_no_tokens_has_no_gradient() -> None:
    class OnlyLoss(ToyTask):
        def counts(self, batch: Batch) -> dict[str, int]:
            return {"loss": super().counts(batch)["loss"]}

        def step(self, batch: Batch) -> StepOutput:
            return StepOutput({"loss": Term(self.model(batch.tokens).sum(), self.counts(batch)["loss"], 1.0)})

    task = OnlyLoss(ToyModel())
    loss, found, _ = gradients(task, make_batch([0, 0]), None)
    assert float(loss) == 0
    assert found == {}
    assert float(clip_gradient(task.model, 1.0, loss, 0, make_batch([0, 0]))) == 0


def test_counts_must_agree_with_steps() -> None:
    class Miscounting(ToyTask):
        def counts(self, batch: Batch) -> dict[str, int]:
            return {**super().counts(batch), "loss": 1}

        def step(self, batch: Batch) -> StepOutput:
            return ToyTask(self.model).step(batch)

    with pytest.raises(ValueError, match="announced"):
        backward(Miscounting(ToyModel()), make_batch([3, 2]), None, Averages())


def test_sequence_longer_than_the_micro_batch() -> None:
    with pytest.raises(InputError, match=r"example 1 has 6 tokens.*trainer\.micro_tokens"):
        backward(make_task(), make_batch([3, 6]), 5, Averages())


@pytest.mark.parametrize("longest", [None, 0.5, 1e9])
def test_clipping(longest: float | None) -> None:
    task, batch = make_task(), make_batch([5, 1, 7])
    loss, before, _ = gradients(task, batch, None)
    length = torch.cat([gradient.flatten() for gradient in before.values()]).norm()
    assert float(clip_gradient(task.model, longest, loss, 0, batch)) == pytest.approx(float(length))
    factor = 0.5 / float(length) if longest == 0.5 else 1.0
    after = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    assert largest_difference({name: factor * g for name, g in before.items()}, after) < 1e-6


def test_not_finite() -> None:
    task, batch = make_task(), make_batch([2, 1])
    loss, _, _ = gradients(task, batch, None)
    with pytest.raises(NonFiniteError, match=r"step 5: the loss is nan.*examples 0, 1"):
        clip_gradient(task.model, 1.0, loss * torch.nan, 4, batch)
    gradient = task.model.get_parameter("mix.weight").grad
    assert gradient is not None
    gradient[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"not finite: mix\.weight"):
        clip_gradient(task.model, 1.0, loss, 4, batch)
