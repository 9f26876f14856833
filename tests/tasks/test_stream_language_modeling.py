"""A stream read window by window is the stream read in one pass, in any parts, and evaluation stands beside it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.layers.positions import RotaryPositions
from seqlab.layers.recurrent.cells import Cell, GRUCell, LSTMCell
from seqlab.models.decoding import Decoding
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.state import State
from seqlab.ragged import Ragged
from seqlab.tasks.stream_language_modeling import StreamLanguageModeling
from seqlab.training.averages import Averages
from seqlab.training.evaluation import evaluate
from seqlab.training.objective import backward

VOCABULARY, WIDTH = 11, 5


def make(lanes: int, cell: type[Cell] = LSTMCell) -> StreamLanguageModeling:
    torch.manual_seed(0)
    encoder = RecurrentEncoder(VOCABULARY, cell, width=WIDTH, layers=2, dropout=0.0)
    model = LanguageModel(encoder, VOCABULARY).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return StreamLanguageModeling(model, lanes, True, 0, Decoding())


def lanes_of(lengths: list[int]) -> list[Tensor]:
    """A stream's lanes, each with the token that its last one predicts."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCABULARY, (length + 1,), generator=generator) for length in lengths]


def windows_of(lanes: list[Tensor], window: int) -> list[Batch]:
    """Batch i is window i of every lane; where a lane has ended, of no token."""
    batches = []
    for start in range(0, max(len(lane) - 1 for lane in lanes), window):
        read = Ragged.from_list([lane[:-1][start : start + window] for lane in lanes])
        targets = read.with_values(torch.cat([lane[1:][start : start + window] for lane in lanes]))
        ids = torch.arange(len(lanes)) + start // window * len(lanes)
        batches.append(Batch(read, targets, ids, torch.ones_like(ids)))
    return batches


def gradients(task: StreamLanguageModeling) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in task.model.parameters() if parameter.grad is not None]
    task.model.zero_grad()
    return found


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def by_hand(task: StreamLanguageModeling, lane: Tensor, window: int) -> tuple[Tensor, list[Tensor]]:
    """One lane alone, token by token; the loss of each token, and the gradient of their sum."""
    losses, state = [], task.model(Ragged.from_list([lane[:0]]))[1]
    for t in range(len(lane) - 1):
        if t % window == 0:
            state = state.detach()
        hidden_BD, state = task.model.step(lane[t : t + 1], state)
        losses.append(nn.functional.cross_entropy(task.model.head.scores(hidden_BD), lane[t + 1 : t + 2]))
    torch.stack(losses).sum().backward()
    return torch.stack(losses).detach(), gradients(task)


lane_lengths = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.sampled_from([n, n + 1]), min_size=1, max_size=4).map(lambda all: sorted(all, reverse=True))
)


@pytest.mark.parametrize("cell", [LSTMCell, GRUCell])
@given(lengths=lane_lengths, window=st.integers(1, 5))
def test_windows_are_one_pass_with_gradients_that_stop_between_them(
    cell: type[Cell], lengths: list[int], window: int
) -> None:
    task, lanes = make(len(lengths), cell), lanes_of(lengths)
    sums, whole = [], [by_hand(task, lane, window) for lane in lanes]
    for batch in windows_of(lanes, window):
        output = task.step(batch)
        output.terms["loss"].sum.backward()
        sums.append(output.terms["loss"].sum.detach())
    expected = [torch.stack(parts).sum(0) for parts in zip(*(gradient for _, gradient in whole), strict=True)]
    assert float(torch.stack(sums).sum()) == pytest.approx(sum(float(losses.sum()) for losses, _ in whole), rel=1e-12)
    assert apart(gradients(task), expected) < 1e-10
    read = Ragged.from_list([lane[:-1] for lane in lanes])
    one_pass = task.model.head.loss(task.model(read)[0].values, torch.cat([lane[1:] for lane in lanes]))
    assert float(torch.stack(sums).sum()) == pytest.approx(one_pass.item(), rel=1e-12)


@given(lengths=lane_lengths, micro=st.sampled_from([3, 4, 9]))
def test_parts_of_a_batch_carry_the_same(lengths: list[int], micro: int) -> None:
    lanes = lanes_of(lengths)
    found = []
    for micro_tokens in (None, micro):
        task, steps = make(len(lanes)), []
        for batch in windows_of(lanes, 3):
            backward(task, batch, micro_tokens, Averages())
            steps += gradients(task)
        found.append((steps, task.carried_state))
    assert apart(found[0][0], found[1][0]) < 1e-12
    assert found[0][1].keys() == found[1][1].keys() == {"read", "0", "1", "2", "3"}
    assert found[0][1]["read"].tolist() == [-(-lengths[0] // 3)] * len(lanes)
    assert apart(list(found[0][1].values()), list(found[1][1].values())) < 1e-12


def test_evaluation_has_a_memory_of_its_own_and_begins_anew() -> None:
    lanes = lanes_of([7, 7, 6])
    batches = windows_of(lanes, 3)
    task = make(3)
    task.step(batches[0])
    left = copy.deepcopy(task.carried_state)
    figures = [evaluate(task, batches)["loss"] for _ in range(2)]
    read = Ragged.from_list([lane[:-1] for lane in lanes])
    one_pass = task.model.head.loss(task.model(read)[0].values, torch.cat([lane[1:] for lane in lanes])).item()
    assert figures[0] == figures[1] == pytest.approx(one_pass / 20, rel=1e-12)  # split by length meanwhile
    assert all(torch.equal(left[name], tensor) for name, tensor in task.carried_state.items())
    after = task.step(batches[1]).terms["loss"].sum
    other = make(3)
    other.step(batches[0])
    assert after.item() == other.step(batches[1]).terms["loss"].sum.item()


def test_an_epoch_begins_without_a_state() -> None:
    batches = windows_of(lanes_of([7, 7]), 3)
    task = make(2)
    epochs = [[task.step(batch).terms["loss"].sum.item() for batch in batches] for _ in range(2)]
    assert epochs[0] == epochs[1]


def test_a_window_that_does_not_follow_is_refused() -> None:
    batches = windows_of(lanes_of([9, 9]), 3)
    task = make(2)
    with pytest.raises(ValueError, match="cannot follow"):
        task.step(batches[1])
    task.step(batches[0])
    task.step(batches[1].select(torch.tensor([0])))
    with pytest.raises(ValueError, match=r"windows \[2, 2\] of lanes \[0, 1\] cannot follow: \[2, 1\] were read"):
        task.step(batches[2])
    task = make(2)
    task.step(batches[0].select(torch.tensor([1])))
    mixed = Batch(batches[0].tokens, batches[0].targets, torch.tensor([0, 3]), batches[0].num_bytes)
    with pytest.raises(ValueError, match="cannot follow"):  # a first window, and one that follows
        task.step(mixed)


def test_only_a_recurrence_reads_a_stream() -> None:
    encoder = TransformerEncoder(VOCABULARY, RotaryPositions, width=8, heads=2)
    with pytest.raises(ValueError, match=r"recurrent model.*model=lstm.*task=language_modeling"):
        StreamLanguageModeling(LanguageModel(encoder, VOCABULARY), 2, True, 0, Decoding())


def test_what_is_kept_holds_no_graph() -> None:
    task = make(2)
    task.step(windows_of(lanes_of([4, 4]), 2)[0])
    assert not any(tensor.requires_grad for tensor in task.carried_state.values())
    assert isinstance(task.training.before(torch.tensor([2, 3]), torch.device("cpu")), State)
