"""Word vectors of a batch of words are those of one word at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from my_module import MyCell
from seqlab.layers.backend import backend
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.layers.word_vectors import WordVectors

WIDTH, WORDS = 6, 5


def make(cell: type[nn.Module] = LSTMCell, vocabulary: int | None = WORDS, dropout: float = 0.0) -> WordVectors:
    torch.manual_seed(0)
    layer = WordVectors(WIDTH, cell, 4, vocabulary, dropout).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("vocabulary", [None, WORDS])
@pytest.mark.parametrize("cell", [LSTMCell, MyCell])
@settings(max_examples=10)
@given(lengths=st.lists(st.one_of(st.integers(0, 4), st.just(17)), max_size=6))
@example(lengths=[])
@example(lengths=[0, 0])
@example(lengths=[1, 7, 7, 3, 0])
def test_a_batch_of_words_equals_one_at_a_time(
    path: str, vocabulary: int | None, cell: type[nn.Module], lengths: list[int]
) -> None:
    layer = make(cell, vocabulary)
    pieces = torch.randn(sum(lengths), WIDTH, dtype=torch.float64, requires_grad=True)
    words = torch.randint(WORDS, (len(lengths),))
    parts = zip(pieces.split(lengths), words.tolist(), strict=True) if lengths else []
    alone = [reference.word_vector(layer, part, word) for part, word in parts]
    expected = torch.stack(alone) if alone else pieces.new_zeros(0, WIDTH)
    with backend(path):  # type: ignore[arg-type]
        given = (pieces, torch.tensor(lengths, dtype=torch.int64), None if vocabulary is None else words)
        found = layer.core(*given)
        weights, inputs = torch.randn_like(expected), [pieces, *layer.parameters()]
        ours, theirs = (
            torch.autograd.grad((y * weights).sum() + pieces.sum(), inputs, allow_unused=True, materialize_grads=True)
            for y in (found, expected)
        )
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-11)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_dropped_words_are_read_as_the_unknown_while_training() -> None:
    layer, count = make(dropout=0.3), 4000
    one, known, unknown = torch.randn(1, WIDTH, dtype=torch.float64), torch.tensor([3]), torch.tensor([0])
    pieces, lengths = one.expand(count, -1), torch.ones(count, dtype=torch.int64)
    found = layer.core(pieces, lengths, known.expand(count))
    layer.eval()
    as_known, as_unknown = (layer.core(one, lengths[:1], word) for word in (known, unknown))
    dropped = torch.isclose(found, as_unknown).all(1)
    assert torch.allclose(found[~dropped], as_known.expand(int((~dropped).sum()), -1))
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=0.04)
    assert torch.allclose(layer.core(pieces, lengths, known.expand(count)), as_known)


def test_what_is_missing_or_wrong_is_told() -> None:
    with pytest.raises(ValueError, match="no word ids were given"):
        make().core(torch.zeros(1, WIDTH, dtype=torch.float64), torch.tensor([1]))
    with pytest.raises(ValueError, match="word_dropout=1: expected"):
        make(dropout=1)
