"""Batched equals one at a time: outputs, the gradient of every parameter, and the gradient of the inputs.

The oracle is seqlab/layers/reference.py, which knows nothing of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from my_module import MyCell
from seqlab.layers.attention import tiles
from seqlab.layers.backend import backend
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import NoPositions, Positions, RelativePositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.ragged import Layout, Ragged

WIDTH = 8
LENGTHS = st.lists(st.one_of(st.integers(0, 5), st.just(3), st.just(17)), max_size=7)


def recurrent(cell: type[nn.Module], bidirectional: bool = True, residual: bool = False) -> RecurrentStack:
    hidden = WIDTH // 2 if bidirectional else WIDTH
    return RecurrentStack(WIDTH, hidden, cell, layers=3, bidirectional=bidirectional, residual=residual)


def transformer(
    causal: bool, positions: Callable[..., Positions] = RotaryPositions, **options: Any
) -> TransformerStack:
    return TransformerStack(WIDTH, 2, 2, 12, causal, positions(WIDTH, WIDTH // 2), **options)


relative = partial(RelativePositions, buckets=8, max_distance=9)


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that sequences of a few tokens are cut into several tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", 4)
        yield


def universal(causal: bool) -> UniversalTransformer:
    return UniversalTransformer(WIDTH, 2, 4, 12, causal, RotaryPositions(WIDTH, WIDTH // 2))


STACKS = {
    "lstm": lambda: recurrent(LSTMCell),
    "gru": lambda: recurrent(GRUCell),
    "tanh": lambda: recurrent(TanhCell),
    "own cell": lambda: recurrent(MyCell),
    "mingru": lambda: recurrent(MinGRUCell),
    "minlstm": lambda: recurrent(MinLSTMCell),
    "minlstm, one direction, residual": lambda: recurrent(MinLSTMCell, bidirectional=False, residual=True),
    "lstm, one direction, residual": lambda: recurrent(LSTMCell, bidirectional=False, residual=True),
    "gru, residual": lambda: recurrent(GRUCell, residual=True),
    "transformer, causal": lambda: transformer(causal=True),
    "transformer, bidirectional": lambda: transformer(causal=False),
    "transformer, no positions": lambda: transformer(causal=False, positions=NoPositions),
    "universal, causal": lambda: universal(causal=True),
    "universal, bidirectional": lambda: universal(causal=False),
    "transformer, window": lambda: transformer(causal=True, window=3),
    "transformer, window both ways": lambda: transformer(causal=False, window=6),
    "transformer, relative": lambda: transformer(causal=True, positions=relative),
    "transformer, relative both ways": lambda: transformer(causal=False, positions=relative, window=9),
    "transformer, one key head, gated, rms": lambda: transformer(
        causal=True, kv_heads=1, activation="swiglu", norm="rms"
    ),
    "transformer, everything": lambda: transformer(
        causal=True, positions=relative, window=5, kv_heads=1, checkpointing=True
    ),
}


def make(name: str, dtype: torch.dtype) -> SequenceLayer:
    torch.manual_seed(1)
    stack = STACKS[name]()
    for parameter in stack.parameters():  # non-zero biases, and norms that are not the identity
        nn.init.normal_(parameter, std=0.5)
    return stack.to(dtype)


def gradients(stack: SequenceLayer, outputs: list[Tensor], weights: list[Tensor], x: Tensor) -> list[Tensor]:
    total = sum(((a * b).sum() for a, b in zip(outputs, weights, strict=True)), start=x.sum() * 0)
    return list(torch.autograd.grad(total, [x, *stack.parameters()], allow_unused=True, materialize_grads=True))


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max((float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True) if x.numel()), default=0.0)


def differences(name: str, lengths: list[int], dtype: torch.dtype) -> tuple[float, float, float]:
    """The largest difference to one at a time, of outputs, of the inputs' gradient and of all parameters' gradients."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        stack = make(name, dtype)
        layout = Layout(torch.tensor(lengths, dtype=torch.int64))
        x = torch.randn(layout.total, WIDTH, requires_grad=True)
        weights = list(torch.randn(layout.total, WIDTH).split(lengths)) if lengths else []
        batched = stack(Ragged(x, layout))
        alone = [reference.stack(stack, part) for part in x.split(lengths)] if lengths else []
        ours = gradients(stack, batched.to_list(), weights, x)
        theirs = gradients(stack, alone, weights, x)
    finally:
        torch.set_default_dtype(default)
    return (
        largest_difference(batched.to_list(), alone),
        largest_difference(ours[:1], theirs[:1]),
        largest_difference(ours[1:], theirs[1:]),
    )


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", STACKS)
@settings(max_examples=8)
@given(lengths=LENGTHS)
@example(lengths=[])
@example(lengths=[0, 0])
@example(lengths=[1, 7, 7, 3, 0])
def test_batched_equals_one_at_a_time(name: str, path: str, lengths: list[int]) -> None:
    with backend(path):  # type: ignore[arg-type]
        assert max(differences(name, lengths, torch.float64)) < 1e-11


@pytest.mark.parametrize("name", STACKS)
def test_float32_stays_within_rounding(name: str) -> None:
    outputs, inputs, parameters = differences(name, [1, 7, 7, 3, 0, 30], torch.float32)
    assert outputs < 1e-5
    assert inputs < 1e-4
    assert parameters < 1e-3  # sums over 48 tokens, with weights far larger than those of a fresh model


@pytest.mark.parametrize("name", STACKS)
def test_the_order_of_sequences_changes_nothing(name: str) -> None:
    stack = make(name, torch.float64)
    sequences = [torch.randn(length, WIDTH, dtype=torch.float64) for length in (5, 0, 2, 9, 2, 1)]
    order = [3, 1, 0, 5, 4, 2]
    straight = stack(Ragged.from_list(sequences)).select(order).values
    shuffled = stack(Ragged.from_list([sequences[i] for i in order])).values
    assert (straight - shuffled).abs().max() < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "lstm",
        "gru",
        "own cell",
        "mingru",
        "minlstm",
        "transformer, causal",
        "transformer, everything",
        "universal, causal",
    ],
)
def test_the_plain_path_differentiates_twice(name: str) -> None:
    stack = make(name, torch.float64)
    layout = Layout([2, 3])

    def summed(x: Tensor) -> Tensor:
        with backend("plain"):
            return stack(Ragged(x, layout)).values.sum(1)

    x = torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(summed, (x,), fast_mode=True, atol=1e-4)
