"""The work done is the work asked for: rows entering every forward operator, counted where operators are dispatched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.work import product_of
from seqlab.layers.attention import compiled, tiles
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.positions import NoPositions, RotaryPositions
from seqlab.layers.recurrent import compiled as compiled_loops
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.universal import UniversalTransformer

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
        if product := product_of(func, args):
            rows, right = product
            key = ("addmm" if name != "mm" else name, right)
            self.rows[key] = self.rows.get(key, 0) + rows
        if name == "attend_compiled":
            lengths, key_lengths = args[3:5]  # what it is asked for; what it skips for a mask, it does not tell
            self.pairs.append(int((lengths * key_lengths).sum()))
            self.key_heads.add(args[1].shape[1])
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


@pytest.mark.parametrize("loop", ["compiled", "operators"])
@pytest.mark.parametrize("cell", [LSTMCell, GRUCell, TanhCell])
def test_recurrences_see_every_token_once_per_layer_and_direction(
    cell: type[nn.Module], loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loop == "operators":
        monkeypatch.setattr(compiled_loops, "can_run", lambda x: False)
    gates = {LSTMCell: 4, GRUCell: 3, TanhCell: 1}[cell]
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


@pytest.mark.parametrize(("cell", "gates"), [(MinGRUCell, 2), (MinLSTMCell, 3)])
def test_linear_recurrences_see_every_token_once_and_have_no_recurrent_product(
    cell: type[nn.Module], gates: int
) -> None:
    stack = RecurrentStack(6, 5, cell, layers=3, bidirectional=True)
    with counted() as counter:
        stack.core(torch.randn(ROWS, 6), LENGTHS)
    assert counter.rows == {("addmm", (6, gates * 5)): 2 * ROWS, ("addmm", (10, gates * 5)): 4 * ROWS}


@pytest.mark.parametrize("width", [6, 32])  # heads of 3 run on tiles, heads of 16 in machine code where there is some
def test_a_transformer_sees_every_token_and_every_pair_once(width: int) -> None:
    stack = TransformerStack(width, 2, 3, 3 * width, False, NoPositions(width, width // 2))
    x = torch.randn(ROWS, width)
    with counted() as counter:
        stack.core(x, LENGTHS, None)
    wide, narrow, square = (width, 3 * width), (3 * width, width), (width, width)
    assert counter.rows == {
        ("addmm", wide): 2 * 3 * ROWS,
        ("addmm", square): 3 * ROWS,
        ("addmm", narrow): 3 * ROWS,
    }
    assert sum(counter.pairs) == 3 * PAIRS
    with counted() as mistaken:
        stack.core(*padded(x), None)
    assert sum(mistaken.pairs) == 3 * 7 * 9**2


def asked_for(layer: UniversalTransformer, x_TD: Tensor, lengths: Tensor) -> tuple[int, int, int, int]:
    """From every token's N: sum of N; rows whose keys and values are needed; query-key pairs, and their rectangles."""
    rounds = layer.ponder(x_TD, lengths, None, False)[1]
    shown = pairs = rectangles = 0
    for N in rounds.split(lengths.tolist()):
        for n in range(1, layer.max_steps + 1):
            running = (n <= N).nonzero().flatten()
            if len(running):
                seen = int(running[-1]) + 1 if layer.causal else len(N)
                shown += int((n - 1 <= N[:seen]).sum())  # it ran in the round before, or this is the first
                pairs += int((running + 1).sum()) if layer.causal else len(running) * seen
                rectangles += len(running) * seen
    return int(rounds.sum()), shown, pairs, rectangles


@pytest.mark.parametrize("causal", [False, True])
def test_a_universal_transformer_sees_a_token_as_often_as_it_runs(causal: bool) -> None:
    torch.manual_seed(0)
    layer = UniversalTransformer(8, 2, 7, 24, causal, RotaryPositions(8, 4), threshold=0.9)
    nn.init.normal_(layer.halting.weight, std=2.0)
    x = torch.randn(ROWS, 8)
    ran, shown, pairs, rectangles = asked_for(layer, x, LENGTHS)
    assert ROWS < ran < 7 * ROWS
    assert ran < shown < ran + ROWS
    with counted() as counter:
        layer.ponder(x, LENGTHS, None, False)
    assert counter.rows == {
        ("addmm", (8, 8)): 2 * ran,  # queries, and what attention read
        ("addmm", (8, 16)): shown,
        ("addmm", (8, 24)): ran,
        ("addmm", (24, 8)): ran,
        ("addmm", (8, 1)): ran,
    }
    assert sum(counter.pairs) == rectangles
    assert (layer.tokens, layer.rounds, layer.rows_shown, layer.pairs) == (ROWS, ran, shown, pairs)
    products = (2 * 8 * 8 + 2 * 8 * 24 + 8) * ran + 8 * 16 * shown + 2 * 8 * pairs  # each once forward, twice backward
    assert layer.flops(LENGTHS) == pytest.approx(6 * products)
    assert layer.flops(LENGTHS.repeat(3)) == pytest.approx(3 * 6 * products)
    with counted() as mistaken:
        layer.ponder(*padded(x), None, False)
    assert mistaken.rows[("addmm", (8, 24))] > ran
    assert sum(mistaken.pairs) > rectangles

    nn.init.constant_(layer.halting.bias, -100.0)  # all tokens run to the end
    with counted() as longest:
        layer.ponder(x, LENGTHS, None, False)
    assert longest.rows[("addmm", (8, 24))] == longest.rows[("addmm", (8, 16))] == 7 * ROWS
    assert sum(longest.pairs) == 7 * PAIRS


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_reads_the_keys_that_its_blocks_need(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "can_run", lambda device, dtype, head_width: False)
    monkeypatch.setattr(tiles, "BLOCK", 4)
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
