"""The layers that train, as TorchScript compiles them, equal eager mode on other lengths."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from my_module import MyCell
from scripted_layers import scripted
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention
from seqlab.layers.crf import CRFHead
from seqlab.layers.embedding import Embedding
from seqlab.layers.heads import Head, SigmoidHead, SoftmaxHead
from seqlab.layers.linear import linear
from seqlab.layers.pooling import PoolingKind, make_pooling
from seqlab.layers.positions import (
    LearnedPositions,
    NoPositions,
    RelativePositions,
    RotaryPositions,
    SinusoidalPositions,
)
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.layers.word_vectors import WordVectors

OTHER_LENGTHS = [[3, 0, 5], [1], [4, 4, 4, 2], [0]]


@pytest.mark.parametrize("cell", [LSTMCell, GRUCell, TanhCell, MyCell, MinGRUCell, MinLSTMCell])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_stack_scripts(cell: type[nn.Module], bidirectional: bool) -> None:
    stack = RecurrentStack(6, 4, cell, layers=2, bidirectional=bidirectional, residual=True)
    script = scripted(stack)
    for lengths in OTHER_LENGTHS:
        x = torch.randn(sum(lengths), 6)
        values, state = script.core(x, torch.tensor(lengths), None)
        expected, expected_state = stack.core(x, torch.tensor(lengths), None)
        assert torch.allclose(values, expected, atol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, expected_state, strict=True))


OPTIONS: dict[str, dict[str, Any]] = {
    "plainest": {},
    "window, one key head": {"window": 2, "kv_heads": 1, "attention_dropout": 0.5},
    "gated, rms": {"activation": "swiglu", "norm": "rms", "checkpointing": True},
}
SCHEMES = [NoPositions, LearnedPositions, SinusoidalPositions, RotaryPositions, RelativePositions]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("causal", [False, True])
def test_a_transformer_stack_scripts(scheme: type[NoPositions], causal: bool, options: dict[str, Any]) -> None:
    stack = TransformerStack(8, 2, 2, 16, causal, scheme(8, 4), **options).eval()
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.5)
    script = scripted(stack)
    state: list[Tensor] | None = None
    expected_state: list[Tensor] | None = None
    for lengths in ([3, 0, 5], [1, 2, 0])[
        : 1 if "window" in options and not causal else 2
    ]:  # the second continues from the first
        x = torch.randn(sum(lengths), 8)
        values, state = script.core(x, torch.tensor(lengths), state)
        expected, expected_state = stack.core(x, torch.tensor(lengths), expected_state)
        assert torch.allclose(values, expected, atol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, expected_state, strict=True))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("scheme", [RotaryPositions, RelativePositions])
def test_the_stack_of_a_decoder_scripts(scheme: type[NoPositions], options: dict[str, Any]) -> None:
    stack = TransformerStack(8, 2, 2, 16, True, scheme(8, 4), memory_width=6, **options).eval()
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.5)
    script = scripted(stack)
    sources = torch.tensor([2, 4, 0])
    memory, expected_memory = (each.remember(torch.ones(6, 6), sources) for each in (script, stack))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(memory, expected_memory, strict=True))
    state: list[Tensor] | None = None
    expected_state: list[Tensor] | None = None
    for lengths in ([3, 0, 5], [1, 2, 0]):  # the second continues from the first
        x = torch.randn(sum(lengths), 8)
        values, state = script.core(x, torch.tensor(lengths), state, memory)
        expected, expected_state = stack.core(x, torch.tensor(lengths), expected_state, expected_memory)
        assert torch.allclose(values, expected, atol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, expected_state, strict=True))


@pytest.mark.parametrize("threshold", [0.9, None])
@pytest.mark.parametrize("causal", [False, True])
def test_a_universal_transformer_scripts(causal: bool, threshold: float | None) -> None:
    torch.manual_seed(0)
    layer = UniversalTransformer(8, 2, 5, 16, causal, RotaryPositions(8, 4), threshold)
    if layer.halting is not None:
        nn.init.normal_(layer.halting.weight, std=2.0)
    script = scripted(layer)
    state: list[Tensor] | None = None
    expected_state: list[Tensor] | None = None
    for lengths in ([3, 0, 50], [1, 2, 0]):  # where it is causal, the second continues from the first
        x = torch.randn(sum(lengths), 8)
        values, state = script.core(x, torch.tensor(lengths), state if causal else None)
        expected, expected_state = layer.core(x, torch.tensor(lengths), expected_state if causal else None)
        assert torch.allclose(values, expected, atol=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, expected_state, strict=True))
        given = (x, torch.tensor(lengths), None, False)
        for ours, theirs in zip(script.ponder(*given)[:3], layer.ponder(*given)[:3], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
        assert script.rounds == layer.rounds
        assert threshold is None or len(layer.ponder(*given)[1].unique()) > 1


@pytest.mark.parametrize("layer", [CrossAttention(8, 2, memory_width=6, kv_heads=1), GlobalAttention(8, 6)])
def test_attention_to_a_memory_scripts(layer: CrossAttention | GlobalAttention) -> None:
    script = scripted(layer)
    for lengths, memory_lengths in (([3, 0, 5], [2, 4, 0]), ([1], [0]), ([4, 4], [3, 3]), ([0], [2])):
        x, memory = torch.randn(sum(lengths), 8), torch.randn(sum(memory_lengths), 6)
        given = (torch.tensor(lengths), layer.remember(memory, torch.tensor(memory_lengths)))
        assert torch.allclose(script.core(x, *given), layer.core(x, *given), atol=1e-6)
        again = script.remember(memory, torch.tensor(memory_lengths))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(given[1], again, strict=True))


@pytest.mark.parametrize("scheme", [NoPositions, LearnedPositions, SinusoidalPositions])
def test_an_embedding_scripts(scheme: type[NoPositions]) -> None:
    layer = Embedding(9, 8, scheme(8, 4))
    script = scripted(layer)
    for lengths in OTHER_LENGTHS:
        tokens = torch.randint(9, (sum(lengths),))
        given = (tokens, torch.tensor(lengths))
        assert torch.allclose(script.core(*given), layer.core(*given), atol=1e-6)


@pytest.mark.parametrize("kind", get_args(PoolingKind))
def test_pooling_scripts(kind: PoolingKind) -> None:
    layer = make_pooling(kind, 4, backward=1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    script = scripted(layer)
    for lengths in OTHER_LENGTHS:
        given = (torch.randn(sum(lengths), 4), torch.tensor(lengths))
        assert torch.allclose(script.core(*given), layer.core(*given), atol=1e-6)


@pytest.mark.parametrize("kind", [SoftmaxHead, SigmoidHead])
def test_a_head_scripts(kind: type[Head]) -> None:
    head, x = kind(4, 7), torch.randn(3, 4)
    script = scripted(head)
    assert torch.allclose(script.scores(x), head.scores(x), atol=1e-6)
    assert torch.allclose(script.probabilities(x), head.probabilities(x), atol=1e-6)


def test_a_conditional_random_field_scripts() -> None:
    allowed = (~torch.eye(5, dtype=torch.bool), torch.arange(5) > 1, torch.arange(5) < 4)
    head = CRFHead(4, 5, allowed)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    script = scripted(head)
    for lengths in OTHER_LENGTHS:
        given = (torch.randn(sum(lengths), 4), torch.tensor(lengths))
        assert torch.equal(script.decode(*given), head.decode(*given))
        assert torch.allclose(script.probabilities(*given), head.probabilities(*given), atol=1e-6)


@pytest.mark.parametrize("word_vocabulary", [None, 9])
def test_word_vectors_script(word_vocabulary: int | None) -> None:
    layer = WordVectors(6, LSTMCell, 4, word_vocabulary).eval()
    script = scripted(layer)
    for lengths in OTHER_LENGTHS:
        words = None if word_vocabulary is None else torch.randint(9, (len(lengths),))
        given = (torch.randn(sum(lengths), 6), torch.tensor(lengths), words)
        assert torch.allclose(script.core(*given), layer.core(*given), atol=1e-6)


def test_training_goes_on_as_if_nothing_had_been_scripted() -> None:
    stack = RecurrentStack(6, 4, LSTMCell)
    scripted(stack)
    assert type(stack) is RecurrentStack
    assert not hasattr(linear, "__prepare_scriptable__")
