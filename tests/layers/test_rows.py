"""The work done is the work asked for: rows entering every forward operator, counted where operators are dispatched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.layers import attend_tiles
from seqlab.layers.cells import GRUCell, LSTMCell
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.positions import RotaryPositions
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.transformer import TransformerStack

LENGTHS = torch.tensor([9, 9, 4, 1, 1, 0, 6])
ROWS, PAIRS = int(LENGTHS.sum()), int((LENGTHS**2).sum())


class RowCounter(TorchDispatchMode):
    """Left rows of every matrix product, per shape of the right factor; query-key pairs of every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[str, tuple[int, ...]], int] = {}
        self.pairs: list[int] = []
        self.key_heads: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            key = (name, tuple(right.shape))
            self.rows[key] = self.rows.get(key, 0) + left.shape[0]
        if "scaled_dot_product" in name:
            query, keys = args[:2]
            self.pairs.append(query.shape[0] * query.shape[2] * keys.shape[2])
            self.key_heads.add(keys.shape[1])
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[RowCounter]:
    counter = RowCounter()
    with counter, torch.no_grad():
        yield counter


def padded(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """The deliberate mistake: every sequence as long as the longest."""
    blocks = [nn.functional.pad(part, (0, 0, 0, 9 - len(part))) for part in x_TD.split(LENGTHS.tolist())]
    return torch.cat(blocks), torch.full_like(LENGTHS, 9)


@pytest.mark.parametrize("cell", [LSTMCell, GRUCell])
def test_recurrences_see_every_token_once_per_layer_and_direction(cell: type[nn.Module]) -> None:
    gates = {LSTMCell: 4, GRUCell: 3}[cell]
    stack = RecurrentStack(6, 5, cell, layers=3, bidirectional=True)
    x = torch.randn(ROWS, 6)
    with counted() as counter:
        stack.core(x, LENGTHS)
    assert counter.rows == {
        ("addmm", (6, gates * 5)): 2 * ROWS,  # the first layer's inputs, two directions
        ("addmm", (10, gates * 5)): 4 * ROWS,  # two more layers'
        ("addmm", (5, gates * 5)): 6 * ROWS,  # the recurrent products of all six
    }
    with counted() as mistaken:
        stack.core(*padded(x))
    assert mistaken.rows[("addmm", (5, gates * 5))] == 6 * 9 * 7


def test_a_transformer_sees_every_token_and_every_pair_once() -> None:
    stack = TransformerStack(8, 2, 3, 24, False, RotaryPositions(8, 4))
    x = torch.randn(ROWS, 8)
    with counted() as counter:
        stack.core(x, LENGTHS, None)
    assert counter.rows == {("addmm", (8, 24)): 2 * 3 * ROWS, ("addmm", (8, 8)): 3 * ROWS, ("addmm", (24, 8)): 3 * ROWS}
    assert sum(counter.pairs) == 3 * PAIRS
    with counted() as mistaken:
        stack.core(*padded(x), None)
    assert sum(mistaken.pairs) == 3 * 7 * 9**2


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_reads_the_keys_that_its_blocks_need(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend_tiles, "BLOCK", 4)
    stack = TransformerStack(8, 2, 3, 24, causal, RotaryPositions(8, 4), window=3)
    with counted() as counter:
        stack.core(torch.randn(ROWS, 8), LENGTHS, None)
    pairs = 0
    for length in LENGTHS.tolist():
        for first in range(0, length, 4):
            after = min(first + 4, length)
            keys = [
                j for j in range(length) if any(abs(i - j) < 3 and (j <= i or not causal) for i in (first, after - 1))
            ]
            pairs += (after - first) * (max(keys) + 1 - min(keys) if length > 3 else length)
    assert sum(counter.pairs) == 3 * pairs < 3 * PAIRS


def test_grouped_queries_read_keys_that_are_not_repeated() -> None:
    stack = TransformerStack(8, 4, 3, 24, True, RotaryPositions(8, 2), kv_heads=2)
    with counted() as counter:
        stack.core(torch.randn(ROWS, 8), LENGTHS, None)
    assert counter.rows[("addmm", (8, 8 + 2 * 2 * 2))] == 3 * ROWS
    assert sum(counter.pairs) == 3 * PAIRS
    assert counter.key_heads == {2}


def test_a_step_reads_each_cached_key_once_and_copies_none() -> None:
    stack = TransformerStack(8, 2, 1, 24, True, RotaryPositions(8, 4))
    with torch.no_grad():
        _, state = stack.core(torch.randn(ROWS, 8), LENGTHS, None)
        one = torch.ones_like(LENGTHS)
        _, state = stack.core(torch.randn(len(one), 8), one, state)  # makes room
        rows = state[0].data_ptr()
        with counted() as counter:
            _, state = stack.core(torch.randn(len(one), 8), one, state)
    assert sum(counter.pairs) == int((LENGTHS + 2).sum())
    assert state[0].data_ptr() == rows


def test_the_head_scores_every_token_once() -> None:
    head = SoftmaxHead(8, 30)
    with counted() as counter:
        head.loss(torch.randn(ROWS, 8), torch.zeros(ROWS, dtype=torch.int64))
    assert counter.rows == {("addmm", (8, 30)): ROWS}
