"""Long documents read in windows: the state is carried, and the gradient stops where it is handed on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from my_module import MyCell
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell
from seqlab.layers.recurrent.minimal import MinGRUCell
from seqlab.models.encoders import RecurrentEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.state import State
from seqlab.ragged import Ragged

VOCABULARY, WIDTH = 13, 5
CELLS = [LSTMCell, GRUCell, MinGRUCell, MyCell]


def make(cell: type[nn.Module]) -> LanguageModel:
    torch.manual_seed(0)
    encoder = RecurrentEncoder(VOCABULARY, cell, width=WIDTH, layers=3, dropout=0.0, residual=True)
    model = LanguageModel(encoder, VOCABULARY).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def in_windows(model: LanguageModel, documents: list[Tensor], window: int) -> list[Tensor]:
    """The hidden vectors of every document; those that have ended leave the batch."""
    hidden: list[list[Tensor]] = [[model.head.weight[:0]] for _ in documents]
    running = torch.arange(len(documents))
    state: State | None = None
    for start in range(0, max(map(len, documents)), window):
        goes_on = torch.tensor([j for j, i in enumerate(running.tolist()) if len(documents[i]) > start])
        running = running[goes_on]
        state = state and state.select(goes_on).detach()
        pieces = Ragged.from_list([documents[i][start : start + window] for i in running.tolist()])
        rows, state = model(pieces, state)
        for i, part in zip(running.tolist(), rows.to_list(), strict=True):
            hidden[i].append(part)
    return [torch.cat(parts) for parts in hidden]


def by_hand(model: LanguageModel, document: Tensor, window: int) -> Tensor:
    """One document, token by token and layer by layer."""
    layers = [layer[0].cell for layer in model.encoder.stack.layers]
    states = [cell.initial_state(1) for cell in layers]
    rows = [model.head.weight[:0]]
    for t, token in enumerate(document.tolist()):
        if t % window == 0:
            states = [[tensor.detach() for tensor in state] for state in states]
        y = model.encoder.embedding.weight[token]
        for k, cell in enumerate(layers):
            output, states[k] = reference.step(cell, y, states[k])
            y = output + y
        rows.append(y[None])
    return torch.cat(rows)


def gradients(model: LanguageModel, hidden: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(sum(map(len, hidden)), WIDTH, generator=generator, dtype=torch.float64)
    total = (torch.cat(hidden) * weights).sum()
    return list(torch.autograd.grad(total, list(model.encoder.parameters())))


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True) if x.numel())


@pytest.mark.parametrize("cell", CELLS)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), window=st.integers(1, 4))
@example(lengths=[11, 4, 0, 7, 8], window=4)
def test_windows_give_the_outputs_of_the_whole_and_truncated_gradients(
    cell: type[nn.Module], lengths: list[int], window: int
) -> None:
    model = make(cell)
    documents = list(torch.randint(VOCABULARY, (sum(lengths),)).split(lengths))
    hidden = in_windows(model, documents, window)
    whole = model(Ragged.from_list(documents))[0].to_list()
    expected = [by_hand(model, document, window) for document in documents]
    assert apart(hidden, whole) < 1e-11
    assert apart(hidden, expected) < 1e-11
    truncated, full = gradients(model, hidden), gradients(model, whole)
    scale = max(float(gradient.abs().max()) for gradient in full)
    assert apart(truncated, gradients(model, expected)) < 1e-11 * max(1.0, scale)
    assert (apart(truncated, full) < 1e-9 * scale) == (max(lengths) <= window)


def test_a_detached_state_is_the_same_state_and_keeps_lengths() -> None:
    tensor = torch.randn(3, 2, requires_grad=True) * 2
    state = State([tensor, tensor + 1], torch.tensor([1, 2, 0])).detach()
    assert torch.equal(state.tensors[0], tensor)
    assert not any(part.requires_grad for part in state.tensors)
    assert state.lengths is not None
    assert state.lengths.tolist() == [1, 2, 0]
    assert State([tensor]).detach().lengths is None
