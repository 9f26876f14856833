"""Right-padded blocks, as exported graphs read them, equal the ragged path, whatever stands in the padding."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

from my_module import MyCell
from seqlab.exporting.formats.pt2 import quiet
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.crf import CRFHead
from seqlab.layers.pooling import PoolingKind, make_pooling
from seqlab.layers.positions import NoPositions, RelativePositions, RotaryPositions
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.ragged import Layout, Ragged

OTHER_LENGTHS = [[3, 0, 5, 1], [1], [4, 4, 4], [0], [9, 2]]
LENGTHS = st.lists(st.one_of(st.integers(0, 4), st.just(9)), min_size=1, max_size=5)


def block(x: Ragged) -> Tensor:
    """Right-padded by numbers that would be seen."""
    padded = x.values.new_full((len(x), max(x.layout.longest, 1), *x.values.shape[1:]), 7.0)
    padded[:, : x.layout.longest] = x.to_padded(7.0)
    return padded


def ragged(lengths: list[int], width: int = 8) -> Ragged:
    return Ragged(torch.randn(sum(lengths), width), Layout(torch.tensor(lengths)))


def rows(padded: Tensor, like: Ragged) -> Tensor:
    return Ragged.from_padded(padded, like.lengths).values


@given(LENGTHS, st.sampled_from(get_args(PoolingKind)))
def test_pooling(lengths: list[int], kind: PoolingKind) -> None:
    layer, x = make_pooling(kind, 8, backward=3), ragged(lengths)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    torch.testing.assert_close(layer.core(block(x), x.lengths), layer.core(x.values, x.lengths))


@pytest.mark.parametrize("scheme", [NoPositions, RotaryPositions, RelativePositions])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
@settings(max_examples=15)
@given(LENGTHS)
def test_a_transformer(scheme: type[NoPositions], causal: bool, window: int | None, lengths: list[int]) -> None:
    torch.manual_seed(0)
    stack = TransformerStack(8, 2, 2, 16, causal, scheme(8, 4), window=window, kv_heads=1).eval()
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = ragged(lengths)
    with torch.no_grad():
        values, state = stack.core(block(x), x.lengths, None)
        expected, cache = stack.core(x.values, x.lengths, None)
        torch.testing.assert_close(rows(values, x), expected)
        if causal:  # the second continues from the first, by as many tokens of each as there are
            x = ragged(lengths[::-1])
            values, state = stack.core(block(x), x.lengths, state)
            expected, cache = stack.core(x.values, x.lengths, cache)
            torch.testing.assert_close(rows(values, x), expected)
            assert torch.equal(state[-1], cache[-1])


@given(LENGTHS)
def test_attention_to_a_memory(lengths: list[int]) -> None:
    decoder = TransformerStack(8, 2, 1, 16, True, RotaryPositions(8, 4), memory_width=6).eval()
    other = GlobalAttention(8, 6)
    x, memory = ragged(lengths), ragged(lengths[::-1], 6)
    inputs = (block(memory), memory.lengths), (memory.values, memory.lengths)
    with torch.no_grad():
        padded, plain = (decoder.remember(*each) for each in inputs)
        values = decoder.core(block(x), x.lengths, None, padded)[0]
        torch.testing.assert_close(rows(values, x), decoder.core(x.values, x.lengths, None, plain)[0])
        padded, plain = (other.remember(*each) for each in inputs)
        values = other.core(block(x), x.lengths, padded)
        torch.testing.assert_close(rows(values, x), other.core(x.values, x.lengths, plain))


class Padded(nn.Module):
    """`torch.export` wants a module whose forward is what to export."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_NLD: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.layer, CRFHead):
            return self.layer.decode(x_NLD, lengths), self.layer.probabilities(x_NLD, lengths)
        values, state = self.layer.core(x_NLD, lengths, None)
        return values, *state


def exported(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
        parameter.requires_grad_(False)
    count = Dim("sequences", min=1)
    dynamic = ({0: count, 1: Dim("length", min=1)}, {0: count})
    with quiet():
        example = (torch.randn(3, 5, 8), torch.tensor([5, 2, 0]))
        return torch.export.export(Padded(layer).eval(), example, dynamic_shapes=dynamic).module()


@pytest.mark.parametrize("cell", [LSTMCell, MyCell])
def test_a_recurrence_exports_with_dynamic_count_and_length(cell: type[nn.Module]) -> None:
    stack = RecurrentStack(8, 4, cell, bidirectional=True)
    graph = exported(stack)
    for lengths in OTHER_LENGTHS:
        x = ragged(lengths)
        values, *state = graph(block(x), x.lengths)
        expected, expected_state = stack.core(x.values, x.lengths, None)
        torch.testing.assert_close(rows(values, x), expected)
        torch.testing.assert_close(state, expected_state)


def test_a_conditional_random_field_exports_with_its_search() -> None:
    allowed = (~torch.eye(5, dtype=torch.bool), torch.arange(5) > 1, torch.arange(5) < 4)
    head = CRFHead(8, 5, allowed)
    graph = exported(head)
    for lengths in OTHER_LENGTHS:
        x = ragged(lengths)
        tags, probabilities = graph(block(x), x.lengths)
        assert torch.equal(rows(tags, x), head.decode(x.values, x.lengths))
        torch.testing.assert_close(rows(probabilities, x), head.probabilities(x.values, x.lengths))
