"""Embedding, positions, attention with a past, pooling and heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from seqlab.layers.attention.modules import SelfAttention
from seqlab.layers.embedding import Embedding
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.pooling import AttentionPooling, LastPooling, MaxPooling, MeanPooling, Pooling
from seqlab.layers.positions import LearnedPositions, NoPositions, Positions, RotaryPositions, SinusoidalPositions
from seqlab.layers.transformer import TransformerStack
from seqlab.ragged import Layout, Ragged

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


@pytest.mark.parametrize("scheme", [NoPositions, LearnedPositions, SinusoidalPositions, RotaryPositions])
@given(lengths=LENGTHS)
def test_positions_restart_in_every_sequence(scheme: type[Positions], lengths: list[int]) -> None:
    torch.manual_seed(0)
    layer = Embedding(11, 6, scheme(6, 2)).double()
    total = sum(lengths)
    tokens = torch.randint(11, (total,))
    values = layer.core(tokens, torch.tensor(lengths, dtype=torch.int64))
    alone = [reference.embedding(layer, part) for part in tokens.split(lengths)] if lengths else []
    expected = torch.cat(alone) if alone else values
    assert torch.allclose(values, expected, atol=1e-12)


def test_rotary_scores_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    turn = RotaryPositions(8, 8).rotate
    scores = [(turn(q, torch.tensor([a + 3])) * turn(k, torch.tensor([a]))).sum() for a in (0, 5, 100)]
    assert scores[0] == pytest.approx(scores[1]) == pytest.approx(scores[2])
    assert scores[0] != pytest.approx((q * k).sum())


def test_learned_positions_say_when_a_sequence_is_too_long() -> None:
    layer = Embedding(5, 4, LearnedPositions(4, 4, max_length=3))
    with pytest.raises(ValueError, match=r"4 tokens and there are 3 learned positions.*model.positions.max_length"):
        layer.core(torch.zeros(4, dtype=torch.int64), torch.tensor([4]))


@pytest.mark.parametrize("scheme", [NoPositions, RotaryPositions])
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
def test_a_transformer_continues_from_its_state(scheme: type[Positions], pairs: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    stack = TransformerStack(8, 2, 2, 16, True, scheme(8, 4)).double()
    sequences = [torch.randn(a + b, 8, dtype=torch.float64) for a, b in pairs]
    first, second = (torch.tensor(column) for column in zip(*pairs, strict=True))
    whole, end = stack.core(torch.cat(sequences), first + second, None)
    head, state = stack.core(torch.cat([s[:a] for s, (a, _) in zip(sequences, pairs, strict=True)]), first, None)
    tail, after = stack.core(torch.cat([s[a:] for s, (a, _) in zip(sequences, pairs, strict=True)]), second, state)
    halves = zip(head.split(first.tolist()), tail.split(second.tolist()), strict=True)
    joined = torch.cat([part for pair in halves for part in pair])
    assert torch.allclose(whole, joined, atol=1e-12)
    assert torch.equal(end[-1], after[-1])
    for a, b in zip(end[:-3], after[:-3], strict=True):  # of every token, wherever its row is
        assert torch.allclose(a[end[-2]], b[after[-2]], atol=1e-12)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"width=6 must be a multiple of heads=4"):
        SelfAttention(6, 4, False, NoPositions(6, 2))
    with pytest.raises(ValueError, match="even"):
        RotaryPositions(6, 3)
    with pytest.raises(ValueError, match="even"):
        SinusoidalPositions(5, 5)


def attentive() -> AttentionPooling:
    layer = AttentionPooling(3).double()
    torch.nn.init.normal_(layer.query, std=2.0, generator=torch.Generator().manual_seed(0))
    return layer


POOLINGS: dict[str, tuple[Callable[[], Pooling], Callable[[torch.Tensor], torch.Tensor]]] = {
    "mean": (MeanPooling, lambda x: x.mean(0)),
    "max": (MaxPooling, lambda x: x.amax(0)),
    "last": (LastPooling, lambda x: x[-1]),
    "both ends": (lambda: LastPooling(backward=2), lambda x: torch.cat([x[-1, :1], x[0, 1:]])),
    "first": (lambda: LastPooling(backward=3), lambda x: x[0]),
    "attention": (attentive, lambda x: torch.softmax(x @ attentive().query, 0) @ x),
}


@pytest.mark.parametrize(("pooling", "one"), POOLINGS.values(), ids=POOLINGS)
@given(lengths=LENGTHS)
def test_pooling_equals_one_at_a_time(
    pooling: Callable[[], Pooling], one: Callable[[torch.Tensor], torch.Tensor], lengths: list[int]
) -> None:
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    x = torch.randn(layout.total, 3, dtype=torch.float64, requires_grad=True)
    pooled = pooling()(Ragged(x, layout))
    alone = [one(part) if len(part) else x.new_zeros(3) for part in x.split(lengths)] if lengths else []
    expected = torch.stack(alone) if alone else x.new_zeros(0, 3)
    assert pooled.shape == (len(lengths), 3)
    assert torch.allclose(pooled, expected)
    weights = torch.randn_like(pooled)
    a, b = (torch.autograd.grad((y * weights).sum() + x.sum() * 0, x)[0] for y in (pooled, expected))
    assert torch.allclose(a, b)


def test_the_query_of_attention_pooling_learns() -> None:
    layer = AttentionPooling(3).double()
    x = Ragged.from_list([torch.randn(length, 3, dtype=torch.float64) for length in (4, 0, 1, 6)])
    assert torch.allclose(layer(x), MeanPooling()(x))  # before it has
    layer = attentive()
    alone = [torch.softmax(part @ layer.query, 0) @ part for part in x.to_list()]
    weights = torch.randn(4, 3, dtype=torch.float64)
    a, b = (torch.autograd.grad((y * weights).sum(), layer.query)[0] for y in (layer(x), torch.stack(alone)))
    assert torch.allclose(a, b)
    far = x.map(lambda values: values * 1000)
    assert torch.isfinite(layer(far)).all()


def test_an_embedding_adds_positions_to_vectors_that_were_made_elsewhere() -> None:
    layer = Embedding(11, 6, LearnedPositions(6, 2))
    tokens, lengths = torch.randint(11, (7,)), torch.tensor([3, 0, 4])
    vectors = layer.weight[tokens]
    assert torch.equal(layer.core(vectors, lengths), layer.core(tokens, lengths))
    assert not torch.equal(layer.core(vectors, lengths), vectors)


def test_the_head_sums_and_shares_a_weight() -> None:
    weight = torch.nn.Parameter(torch.randn(5, 4))
    head = SoftmaxHead(4, 5, weight)
    assert head.weight is weight
    hidden, targets = torch.randn(7, 4), torch.randint(5, (7,))
    log_probabilities = (hidden @ weight.t() + head.bias).log_softmax(1)
    expected = -sum(row[target] for row, target in zip(log_probabilities, targets, strict=True))
    assert head.loss(hidden, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    assert head.loss(hidden[:0], targets[:0]).item() == 0
    with pytest.raises(ValueError, match=r"\[6, 4\]"):
        SoftmaxHead(4, 6, weight)
