"""The useful FLOPs that layers claim are those of the equations, one sequence at a time, counted product by product."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from counting import counted
from my_module import MyCell
from seqlab.layers.attention.modules import SelfAttention
from seqlab.layers.backend import backend
from seqlab.layers.crf import CRFHead
from seqlab.layers.heads import Head, SigmoidHead, SoftmaxHead
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.pooling import AttentionPooling
from seqlab.layers.positions import NoPositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.word_vectors import WordVectors
from seqlab.models.classifier import Classifier
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged

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


@pytest.mark.parametrize("kind", [SoftmaxHead, SigmoidHead, CRFHead])
@given(rows=st.integers(0, 20))
def test_a_head_claims_what_all_rows_at_once_cost(kind: type[Head], rows: int) -> None:
    head, hidden_TD = kind(WIDTH, 13), torch.randn(rows, WIDTH, requires_grad=True)
    targets_T = torch.zeros(rows, dtype=torch.int64)
    lengths = torch.tensor([rows]) if kind is CRFHead else torch.ones_like(targets_T)
    with backend("plain"):
        assert head.flops(rows) == counted(lambda: head.loss(hidden_TD, targets_T, lengths))


@given(lengths=LENGTHS)
def test_pooling_by_attention_claims_what_its_equation_costs(lengths: list[int]) -> None:
    layer = AttentionPooling(WIDTH)

    def one_at_a_time() -> Tensor:
        x_TD = torch.randn(sum(lengths), WIDTH, requires_grad=True)
        alone = [(torch.softmax(x_LD @ layer.query, 0) @ x_LD).sum() for x_LD in x_TD.split(lengths) if len(x_LD)]
        return sum(alone, start=x_TD.sum())

    assert layer.flops(torch.tensor(lengths, dtype=torch.int64)) == (counted(one_at_a_time) if lengths else 0)


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


def test_classifiers_and_taggers_add_up_their_parts() -> None:
    lengths, pieces = torch.tensor([3, 0, 4]), Ragged(torch.tensor([2, 1, 1, 3]), Layout([2, 0, 2]))
    tokens, (d, h) = Layout(lengths), (WIDTH, 5)
    encoder = RecurrentEncoder(13, LSTMCell, width=d, causal=False)
    both_ways = 2 * 24 * d * 2 * d
    assert Classifier(encoder, 3, "one", dropout=0.0).flops(lengths) == both_ways * 7 + 6 * 2 * d * 3 * 3
    attentive = Classifier(encoder, 3, "one", pooling="attention").flops(lengths)
    assert attentive == Classifier(encoder, 3, "one").flops(lengths) + 12 * 2 * d * 7
    assert Classifier(encoder, None, "number").flops(lengths) == both_ways * 7 + 6 * 2 * d * 3
    assert Tagger(encoder, 3).flops(tokens, pieces) == both_ways * 7 + 6 * 2 * d * 3 * 4
    spelled = Tagger(encoder, 3, word_vectors=partial(WordVectors, cell=GRUCell, spelling=h, word_vocabulary=9))
    of_words = 2 * 18 * h * (d + h) * 7 + 6 * (2 * h + d) * d * 4
    assert spelled.flops(tokens, pieces) == of_words + both_ways * 4 + 6 * 2 * d * 3 * 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_claims_the_pairs_in_it(causal: bool, window: int) -> None:
    whole = SelfAttention(WIDTH, 2, causal, NoPositions(WIDTH, WIDTH // 2))
    part = SelfAttention(WIDTH, 2, causal, NoPositions(WIDTH, WIDTH // 2), window=window)
    lengths = torch.tensor([5, 0, 2, 1])
    pairs = [(i, j, n) for n in lengths.tolist() for i in range(n) for j in range(n) if not causal or j <= i]
    outside = sum(abs(i - j) >= window for i, j, _ in pairs)
    assert whole.flops(lengths) - part.flops(lengths) == 12.0 * WIDTH * outside
