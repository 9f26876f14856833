"""The useful FLOPs that layers claim are those of the equations, one sequence at a time, counted product by product."""

from __future__ import annotations

import pytest
import torch
from counting import counted
from hypothesis import example, given, settings
from hypothesis import strategies as st
from my_module import MyCell
from torch import Tensor, nn

from seqlab.layers import reference
from seqlab.layers.attention import SelfAttention
from seqlab.layers.backend import backend
from seqlab.layers.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import NoPositions, RotaryPositions
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder
from seqlab.models.language_model import LanguageModel

WIDTH = 8
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 3, 6]), max_size=4)


def claimed_and_counted(stack: SequenceLayer, lengths: list[int]) -> tuple[float, int]:
    def one_at_a_time() -> Tensor:
        x_TD = torch.randn(sum(lengths), WIDTH, requires_grad=True)
        alone = [reference.stack(stack, x_LD).sum() for x_LD in (x_TD.split(lengths) if lengths else [])]
        return sum(alone, start=x_TD.sum())

    return stack.flops(torch.tensor(lengths, dtype=torch.int64)), counted(one_at_a_time)


@pytest.mark.parametrize("cell", [LSTMCell, GRUCell, TanhCell, MyCell])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@settings(max_examples=8)
@given(lengths=LENGTHS)
@example(lengths=[5, 0, 1, 7, 7])
def test_a_recurrent_stack_claims_what_its_equations_cost(
    cell: type[nn.Module], layers: int, bidirectional: bool, lengths: list[int]
) -> None:
    stack = RecurrentStack(WIDTH, 5, cell, layers, bidirectional)
    for module in stack.modules():
        if hasattr(module, "initial_state") and module is not stack:  # as if trained: its gradient is computed too
            begin = module.initial_state
            module.initial_state = lambda batch, begin=begin: [x.requires_grad_() for x in begin(batch)]
    claimed, found = claimed_and_counted(stack, lengths)
    assert claimed == found


@pytest.mark.parametrize("causal", [False, True])
@settings(max_examples=8)
@given(lengths=LENGTHS)
@example(lengths=[5, 0, 1, 7, 7])
def test_a_transformer_claims_what_its_equations_cost(causal: bool, lengths: list[int]) -> None:
    stack = TransformerStack(WIDTH, 2, 2, 11, causal, RotaryPositions(WIDTH, WIDTH // 2))
    claimed, found = claimed_and_counted(stack, lengths)
    assert claimed == found


@given(rows=st.integers(0, 20))
def test_the_head_claims_what_all_rows_at_once_cost(rows: int) -> None:
    head, hidden_TD = SoftmaxHead(WIDTH, 13), torch.randn(rows, WIDTH, requires_grad=True)
    with backend("plain"):
        assert head.flops(rows) == counted(lambda: head.loss(hidden_TD, torch.zeros(rows, dtype=torch.int64)))


def test_figures_of_the_textbook() -> None:
    lengths = torch.tensor([4, 0, 7, 1])
    tokens, pairs, d, h = 12, 16 + 49 + 1, WIDTH, 5
    assert RecurrentStack(d, h, LSTMCell).flops(lengths) == 24 * h * (d + h) * tokens
    assert RecurrentStack(d, h, GRUCell).flops(lengths) == 18 * h * (d + h) * tokens
    assert RecurrentStack(d, h, GRUCell, bidirectional=True).flops(lengths) == 2 * 18 * h * (d + h) * tokens
    for causal, attention in ((False, 12 * d * pairs), (True, 6 * d * (pairs + tokens))):
        stack = TransformerStack(d, 2, 2, 11, causal, RotaryPositions(d, 4))
        assert stack.flops(lengths) == 2 * (6 * (4 * d * d + 2 * d * 11) * tokens + attention)


class Told(MyCell):
    """A cell that knows better than the estimate."""

    def flops(self) -> float:
        return 1.5


def test_a_cell_of_ones_own_may_tell() -> None:
    lengths = torch.tensor([3, 1])
    assert RecurrentStack(WIDTH, 5, MyCell).flops(lengths) == 6 * (WIDTH + 5) * 5 * 4
    assert RecurrentStack(WIDTH, 5, Told, layers=2).flops(lengths) == 1.5 * 2 * 4


def test_a_language_model_adds_its_head_and_nothing_for_the_embedding() -> None:
    lengths = torch.tensor([3, 0, 4])
    for encoder in (
        RecurrentEncoder(13, LSTMCell, width=WIDTH, layers=2),
        TransformerEncoder(13, RotaryPositions, width=WIDTH, layers=2, heads=2),
    ):
        whole = LanguageModel(encoder, 13).flops(lengths)
        assert whole == encoder.stack.flops(lengths) + 6 * WIDTH * 13 * 7


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_claims_the_pairs_in_it(causal: bool, window: int) -> None:
    whole = SelfAttention(WIDTH, 2, causal, NoPositions(WIDTH, WIDTH // 2))
    part = SelfAttention(WIDTH, 2, causal, NoPositions(WIDTH, WIDTH // 2), window=window)
    lengths = torch.tensor([5, 0, 2, 1])
    pairs = [(i, j, n) for n in lengths.tolist() for i in range(n) for j in range(n) if not causal or j <= i]
    outside = sum(abs(i - j) >= window for i, j, _ in pairs)
    assert whole.flops(lengths) - part.flops(lengths) == 12.0 * WIDTH * outside
