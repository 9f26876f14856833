"""What the adapters of models that write have in common: texts that are read in parts, each from the state before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from seqlab.exporting.adapters import tensors
from seqlab.exporting.adapters.tensors import Run
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.ragged import Layout, Ragged

STEPS = 3  # tokens at the end of a text that are read one by one, each continuing from the state before


def in_parts(texts: Ragged) -> Iterator[Ragged]:
    """Yield the texts without their last tokens, then these one by one; texts that have fewer wait with no token."""
    lengths = texts.lengths
    bounds = [(lengths - left).clamp(min=0) for left in range(STEPS, -1, -1)]
    for begin, end in zip([torch.zeros_like(lengths), *bounds], bounds, strict=False):
        layout = Layout(end - begin)
        yield Ragged(texts.values[(texts.offsets[:-1] + begin)[layout.segments] + layout.positions], layout)


def scores_by_signature(texts: Ragged, step: Callable[..., Any], state: list[Tensor]) -> Tensor:
    """Return the scores [B', V] after the last token of every text that has one, by a compiled signature."""
    scores = torch.zeros(0)
    for part in in_parts(texts):
        scores, state = step(part.values, part.offsets, state)
    return scores[texts.lengths > 0]


def scores_by_programs(texts: Ragged, read: Run, step: Run, given: list[Tensor]) -> Tensor:
    """Return the same by programs of a graph.

    Args:
        read: takes the first part of the texts; `step` takes the others.
        given: what is handed over besides. Its end, the state, is replaced by what comes back.
    """
    scores, run = torch.zeros(0), read
    for part in in_parts(texts):
        scores, *state = run(*tensors.padded_batch(part, at_least=1), *given)
        given, run = given[: len(given) - len(state)] + state, step
    return scores[: len(texts)][texts.lengths > 0]


def example_state(stack: Any, count: int) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    """Return an example of the state of a stack, and the axes of each tensor that may have any size."""
    if isinstance(stack, RecurrentStack):
        state = stack.initial_state(count)
        return state, [("sequences",)] * len(state)
    assert isinstance(stack, TransformerStack)
    attention = stack.blocks[0].attention
    size = (count, 6, attention.kv_heads, attention.out.in_features // attention.heads)
    rows = [torch.zeros(size, dtype=attention.out.weight.dtype) for _ in range(2 * len(stack.blocks))]
    return [*rows, torch.full([count], 6)], [("sequences", "past")] * len(rows) + [("sequences",)]
