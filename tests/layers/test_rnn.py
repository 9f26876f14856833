"""Recurrent stacks: state that is carried over, steps, dropout, and agreement with torch.nn."""

from __future__ import annotations

import pytest
import torch
from my_module import MyCell
from torch import nn

from seqlab.layers.backend import backend
from seqlab.layers.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.scan import MinGRUCell, MinLSTMCell

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
    assert (torch.stack(outputs, 1) - stack.equal(x_NLD)).abs().max() < 1e-12


def test_dropout_works_between_layers_and_only_while_training() -> None:
    torch.manual_seed(0)
    lengths, x = torch.tensor([3, 2]), torch.randn(5, 4)
    one, two = (RecurrentStack(4, 4, GRUCell, layers=layers, dropout=0.5) for layers in (1, 2))
    assert torch.equal(one.core(x, lengths)[0], one.core(x, lengths)[0])  # one layer has nothing between
    assert not torch.equal(two.core(x, lengths)[0], two.core(x, lengths)[0])
    two.eval()
    assert torch.equal(two.core(x, lengths)[0], two.core(x, lengths)[0])


@pytest.mark.parametrize("cell", [LSTMCell, GRUCell, MinGRUCell, MinLSTMCell])
def test_bf16_autocast_keeps_the_state_in_float32(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(8, 8, cell)
    lengths, x = torch.tensor([5, 2]), torch.randn(7, 8, requires_grad=True)
    exact, _ = stack.core(x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        values, state = stack.core(x, lengths)
    assert all(tensor.dtype == torch.float32 for tensor in state)
    assert 0 < (values - exact).abs().max() < 0.05
    values.sum().backward()
    assert x.grad is not None
