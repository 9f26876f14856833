"""Recurrent stacks: state that is carried over, steps, dropout, and agreement with torch.nn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from my_module import MyCell
from scripted_layers import scripted
from seqlab.layers.backend import backend
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack

CELLS = [LSTMCell, GRUCell, TanhCell, MyCell, MinGRUCell, MinLSTMCell]


@pytest.mark.parametrize(("cell", "module"), [(LSTMCell, nn.LSTM), (GRUCell, nn.GRU), (TanhCell, nn.RNN)])
def test_torch_nn_weights_give_torch_nn_outputs(cell: type[nn.Module], module: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    theirs = module(5, 4, num_layers=2, bidirectional=True)
    ours = RecurrentStack(5, 4, cell, layers=2, bidirectional=True)
    for i, layer in enumerate(ours.layers):
        for recurrence, suffix in zip(layer, ["", "_reverse"], strict=True):
            for name, parameter in recurrence.cell.named_parameters():
                parameter.data = getattr(theirs, f"{name}_l{i}{suffix}").data
    lengths = torch.tensor([3, 6, 1])
    sequences = [torch.randn(length, 5) for length in lengths]
    packed, _ = theirs(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    padded, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    values, _ = ours.core(torch.cat(sequences), lengths)
    expected = torch.cat([row[:length] for row, length in zip(padded, lengths, strict=True)])
    assert (values - expected).abs().max() < 1e-6


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_carried_state_continues_where_it_ended(cell: type[nn.Module], path: str) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(3, 4, cell, layers=2).double()
    first, second = torch.tensor([2, 0, 4, 0]), torch.tensor([1, 3, 0, 0])
    parts = [(torch.randn(a, 3).double(), torch.randn(b, 3).double()) for a, b in zip(first, second, strict=True)]
    with backend(path):  # type: ignore[arg-type]
        whole, end = stack.core(torch.cat([torch.cat(pair) for pair in parts]), first + second)
        head, state = stack.core(torch.cat([a for a, _ in parts]), first)
        tail, carried = stack.core(torch.cat([b for _, b in parts]), second, state)
    heads, tails = head.split(first.tolist()), tail.split(second.tolist())
    joined = torch.cat([part for pair in zip(heads, tails, strict=True) for part in pair])
    assert (whole - joined).abs().max() < 1e-12
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(end, carried, strict=True))
    untouched = stack.initial_state(4)
    assert all(torch.equal(a[3], b[3]) for a, b in zip(end, untouched, strict=True))  # nothing read, nothing changed


@pytest.mark.parametrize("cell", CELLS)
def test_steps_equal_the_whole(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(4, 4, cell, layers=3, residual=True).double()
    x_NLD = torch.randn(2, 5, 4).double()
    state = stack.initial_state(2)
    outputs = []
    for t in range(5):
        output, state = stack.step(x_NLD[:, t], state)
        outputs.append(output)
    expected, _ = stack.core(x_NLD.flatten(0, 1), torch.tensor([5, 5]))
    assert (torch.stack(outputs, 1).flatten(0, 1) - expected).abs().max() < 1e-12


def test_dropout_works_between_layers_and_only_while_training() -> None:
    torch.manual_seed(0)
    lengths, x = torch.tensor([3, 2]), torch.randn(5, 4)
    one, two = (RecurrentStack(4, 4, GRUCell, layers=layers, dropout=0.5) for layers in (1, 2))
    assert torch.equal(one.core(x, lengths)[0], one.core(x, lengths)[0])  # one layer has nothing between
    assert not torch.equal(two.core(x, lengths)[0], two.core(x, lengths)[0])
    two.eval()
    assert torch.equal(two.core(x, lengths)[0], two.core(x, lengths)[0])


class Passing(nn.Module):
    """A cell that lets its input through, and so shows what the stack did to it."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()

    def initial_state(self, batch: int) -> list[Tensor]:
        return [torch.zeros(batch, 1)]

    def forward(self, x_BD: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return x_BD, state


LENGTHS = [40, 0, 1, 40, 7, 300]


@pytest.mark.parametrize(("layers", "kept"), [(1, 0.75**2), (3, 0.75**4)])  # input, output, and between layers
def test_variational_dropout_drops_the_same_features_throughout_a_sequence(layers: int, kept: float) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(64, 64, Passing, layers, dropout=0.25, variational=True)
    x = torch.rand(sum(LENGTHS), 64) + 1
    values, _ = stack.core(x, torch.tensor(LENGTHS))
    masks = [part / rows for part, rows in zip(values.split(LENGTHS), x.split(LENGTHS), strict=True) if len(rows)]
    assert all(torch.allclose(mask, mask[:1].expand_as(mask)) for mask in masks)
    first = torch.stack([mask[0] for mask in masks])
    assert torch.unique(first != 0, dim=0).shape[0] == len(masks)  # no two sequences alike
    assert torch.allclose(first[first != 0], torch.tensor(1 / kept))
    again, _ = stack.core(x, torch.tensor(LENGTHS))
    assert not torch.equal(values, again)
    ordinary = RecurrentStack(64, 64, Passing, 3, dropout=0.25)
    mask = ordinary.core(x, torch.tensor(LENGTHS))[0][:40] / x[:40]
    assert not torch.allclose(mask, mask[:1].expand_as(mask))


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_preserves_the_expectation(variational: bool) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(4, 4, Passing, 2, dropout=0.5, variational=variational)
    lengths = [3, 1] * 10_000
    values, _ = stack.core(torch.ones(sum(lengths), 4), torch.tensor(lengths))
    assert values.mean() == pytest.approx(1.0, abs=0.03)
    assert stack.step(torch.ones(40_000, 4), stack.initial_state(40_000))[0].mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_variational_dropout_is_nothing_in_evaluation_and_scripts(bidirectional: bool) -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(sum(LENGTHS), 4), torch.tensor(LENGTHS)
    stack = RecurrentStack(4, 4, GRUCell, 2, bidirectional, dropout=0.5, variational=True)
    plain = RecurrentStack(4, 4, GRUCell, 2, bidirectional)
    plain.load_state_dict(stack.state_dict())
    assert torch.equal(stack.eval().core(x, lengths)[0], plain.core(x, lengths)[0])
    torch.manual_seed(1)
    with backend("plain"):
        expected, _ = stack.train().core(x, lengths)
    script = scripted(stack).train()
    torch.manual_seed(1)
    assert torch.allclose(script.core(x, lengths, None)[0], expected, atol=1e-6)
    assert stack.core(x[:0], torch.tensor([0, 0]))[0].shape == (0, stack.output_size)
