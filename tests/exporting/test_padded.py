"""Right-padded blocks, as exported graphs read them, equal the ragged path, whatever stands in the padding."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

from my_module import MyCell
from seqlab.exporting.formats.pt2 import quiet
from seqlab.exporting.padded import to_padded
from seqlab.exporting.requirements import UnsuitedError
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.crf import CRFHead
from seqlab.layers.embedding import Embedding
from seqlab.layers.pooling import MeanPooling, PoolingKind, make_pooling
from seqlab.layers.positions import (
    LearnedPositions,
    NoPositions,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
)
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.universal import UniversalTransformer
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
    padded = to_padded(layer)
    torch.testing.assert_close(padded.core(block(x), x.lengths), layer.core(x.values, x.lengths))
    if len(set(lengths)) == 1 and lengths[0]:
        torch.testing.assert_close(padded.core(block(x), None), layer.core(x.values, x.lengths))


@pytest.mark.parametrize("scheme", [NoPositions, LearnedPositions, SinusoidalPositions])
@given(LENGTHS)
def test_an_embedding(scheme: type[NoPositions], lengths: list[int]) -> None:
    layer = Embedding(11, 8, scheme(8, 2)).eval()
    tokens = Ragged(torch.randint(11, (sum(lengths),)), Layout(torch.tensor(lengths)))
    padded = to_padded(layer).core(tokens.to_padded(0), None)  # it does not look at lengths
    torch.testing.assert_close(rows(padded, tokens), layer.core(tokens.values, tokens.lengths))


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
    x, padded = ragged(lengths), to_padded(stack)
    with torch.no_grad():
        values, state = padded.core(block(x), x.lengths, None)
        expected, cache = stack.core(x.values, x.lengths, None)
        torch.testing.assert_close(rows(values, x), expected)
        if causal:  # the second continues from the first, by as many tokens of each as there are
            x = ragged(lengths[::-1])
            values, state = padded.core(block(x), x.lengths, state)
            expected, cache = stack.core(x.values, x.lengths, cache)
            torch.testing.assert_close(rows(values, x), expected)
            assert torch.equal(state[-1], cache[-1])


@given(LENGTHS)
def test_attention_to_a_memory(lengths: list[int]) -> None:
    decoder = TransformerStack(8, 2, 1, 16, True, RotaryPositions(8, 4), memory_width=6).eval()
    other = GlobalAttention(8, 6)
    x, memory = ragged(lengths), ragged(lengths[::-1], 6)
    with torch.no_grad():
        plain = decoder.remember(memory.values, memory.lengths)
        padded = to_padded(decoder)
        kept = padded.remember(block(memory), memory.lengths)
        values = padded.core(block(x), x.lengths, None, kept)[0]
        torch.testing.assert_close(rows(values, x), decoder.core(x.values, x.lengths, None, plain)[0])
        plain = other.remember(memory.values, memory.lengths)
        twin = to_padded(other)
        expected = other.core(x.values, x.lengths, plain)
        values = twin.core(block(x), x.lengths, twin.remember(block(memory), memory.lengths))
        torch.testing.assert_close(rows(values, x), expected)
        if len(set(lengths)) == 1 and lengths[0]:
            values = twin.core(block(x), None, twin.remember(block(memory), None))
            torch.testing.assert_close(values.flatten(0, 1), expected)


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
        return torch.export.export(Padded(to_padded(layer)).eval(), example, dynamic_shapes=dynamic).module()


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


@pytest.mark.parametrize("cell", [LSTMCell, MyCell])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrence_over_a_dense_block(cell: type[nn.Module], bidirectional: bool) -> None:
    stack = RecurrentStack(8, 4, cell, 2, bidirectional, residual=True)
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        values, state = to_padded(stack).core(x, None)
        expected, expected_state = stack.core(x.flatten(0, 1), torch.full((3,), 5))
    torch.testing.assert_close(values.flatten(0, 1), expected)
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


class Dense(nn.Module):
    """The same for sequences of one length, of a stack or of the stack of a decoder."""

    def __init__(self, stack: TransformerStack) -> None:
        super().__init__()
        self.stack = to_padded(stack)

    def forward(self, x_NLD: Tensor, memory_NLD: Tensor | None = None) -> Tensor:
        memory = None if memory_NLD is None else self.stack.remember(memory_NLD, None)
        return self.stack.core(x_NLD, None, None, memory)[0]


OPTIONS: dict[str, dict[str, Any]] = {
    "plainest": {},
    "window, one key head": {"window": 2, "kv_heads": 1, "attention_dropout": 0.5},
    "gated, rms": {"activation": "swiglu", "norm": "rms", "checkpointing": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("scheme", [RotaryPositions, RelativePositions])
@pytest.mark.parametrize("causal", [False, True])
def test_a_transformer_exports_with_dynamic_count_and_length(
    causal: bool, scheme: type[NoPositions], options: dict[str, Any]
) -> None:
    stack = TransformerStack(8, 2, 2, 16, causal, scheme(8, 4), **options).eval()
    dynamic = {"x_NLD": {0: Dim("sequences", min=1), 1: Dim("length", min=1)}, "memory_NLD": None}
    program = torch.export.export(Dense(stack), (torch.randn(3, 5, 8), None), dynamic_shapes=dynamic).module()
    for count, length in ((1, 1), (2, 9), (7, 4)):
        x = torch.randn(count, length, 8)
        expected, _ = stack.core(x.flatten(0, 1), torch.full((count,), length))
        torch.testing.assert_close(program(x, None).flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_stack_of_a_decoder_exports(options: dict[str, Any]) -> None:
    stack = TransformerStack(8, 2, 2, 16, True, RotaryPositions(8, 4), memory_width=6, **options).eval()
    count = Dim("sequences", min=1)
    dynamic = ({0: count, 1: Dim("length", min=1)}, {0: count, 1: Dim("source", min=1)})
    example = (torch.randn(3, 5, 8), torch.randn(3, 4, 6))
    program = torch.export.export(Dense(stack), example, dynamic_shapes=dynamic).module()
    for count, length, source in ((1, 1, 7), (2, 9, 1), (7, 4, 4)):
        x, memory = torch.randn(count, length, 8), torch.randn(count, source, 6)
        kept = stack.remember(memory.flatten(0, 1), torch.full((count,), source))
        expected, _ = stack.core(x.flatten(0, 1), torch.full((count,), length), None, kept)
        torch.testing.assert_close(program(x, memory).flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_a_universal_transformer_has_no_graph() -> None:
    with pytest.raises(UnsuitedError, match=r"depends on the data.*model=transformer"):
        to_padded(UniversalTransformer(8, 2, 5, 16, True, RotaryPositions(8, 4)))


def test_a_subclass_of_the_users_own_keeps_what_it_adds() -> None:
    class Louder(MeanPooling):
        def flops(self, lengths: Tensor) -> float:
            return 7.0

    layer, x = Louder(), ragged([2, 3])
    padded = to_padded(layer)
    assert type(layer) is Louder
    assert isinstance(padded, Louder)
    assert padded.flops(x.lengths) == 7.0
    torch.testing.assert_close(padded.core(block(x), x.lengths), layer.core(x.values, x.lengths))
