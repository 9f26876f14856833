"""Attention after a recurrence: all steps at once are what the equations say of each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import reference
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.backend import backend
from seqlab.models.state import State


def split(x: Tensor, lengths: Tensor) -> list[Tensor]:
    return list(x.split(lengths.tolist())) if len(lengths) else []


@pytest.mark.parametrize("path", ["fast", "plain"])
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6))
@example(pairs=[(1, 40), (30, 1), (0, 2), (2, 0), (2, 0)])
def test_it_equals_one_at_a_time(path: str, pairs: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    layer = GlobalAttention(8, memory_width=6).double()
    lengths, others = (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))
    x = torch.randn(int(lengths.sum()), 8).double().requires_grad_()
    memory = torch.randn(int(others.sum()), 6).double().requires_grad_()
    with backend(path):  # type: ignore[arg-type]
        out = layer.core(x, lengths, layer.remember(memory, others))
    parts = zip(split(x, lengths), split(memory, others), strict=True)
    expected = torch.cat([x[:0], *(reference.global_attention(layer, *part) for part in parts)])
    assert torch.allclose(out, expected, atol=1e-12)
    wanted, weights = [x, memory, *layer.parameters()], torch.randn_like(out)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
        for y in (out + 0 * x.sum(), expected + 0 * x.sum())
    )
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_memory_is_selected_by_its_last_two() -> None:
    layer = GlobalAttention(8, 8).double()
    memory, others, beams = torch.randn(9, 8).double(), torch.tensor([4, 0, 5]), torch.tensor([2, 2, 0, 1])
    state = State.of_cache(layer.remember(memory, others)).select(beams)
    assert state.tensors[0].data_ptr() == memory.data_ptr()  # not a copy
    x = torch.randn(4, 8).double()
    out = layer.core(x, torch.ones(4, dtype=torch.int64), state.as_cache())
    parts = [split(memory, others)[i] for i in beams.tolist()]
    expected = [reference.global_attention(layer, row[None], part) for row, part in zip(x, parts, strict=True)]
    assert torch.allclose(out, torch.cat(expected), atol=1e-12)


def test_the_fast_kernels_have_memories_of_any_width() -> None:
    for width in (5, 200, 1024):
        layer, lengths, others = GlobalAttention(8, width), torch.tensor([3, 2]), torch.tensor([4, 7])
        x, memory = torch.randn(5, 8, requires_grad=True), torch.randn(11, width, requires_grad=True)
        results = []
        for path in ("fast", "plain"):
            with backend(path):  # type: ignore[arg-type]
                out = layer.core(x, lengths, layer.remember(memory, others))
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, memory, *layer.parameters()])])
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*results, strict=True))
