"""The Universal Transformer: outputs, ponder cost and gradients are those of one token at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from seqlab.layers.attention.some import attend_some
from seqlab.layers.backend import backend
from seqlab.layers.positions import NoPositions, Positions, RotaryPositions
from seqlab.layers.universal import UniversalTransformer
from seqlab.ragged import Layout, Ragged

WIDTH = 8
LENGTHS = st.lists(st.one_of(st.integers(0, 5), st.just(3), st.just(11)), max_size=5)
KINDS = {
    "causal": (True, RotaryPositions, 0.9),
    "bidirectional": (False, RotaryPositions, 0.9),
    "no positions": (False, NoPositions, 0.8),
    "nothing halts": (True, RotaryPositions, None),
}


def make(name: str, dtype: torch.dtype = torch.float64) -> UniversalTransformer:
    """A layer whose tokens halt in all rounds from the first to the last."""
    causal, positions, threshold = KINDS[name]
    torch.manual_seed(4)
    layer = UniversalTransformer(WIDTH, 2, 6, 12, causal, positions(WIDTH, WIDTH // 2), threshold)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.zeros_(layer.norm.bias)
    if layer.halting is not None:
        nn.init.normal_(layer.halting.weight, std=3.0)
        nn.init.zeros_(layer.halting.bias)
    return layer.to(dtype)


def alone(layer: UniversalTransformer, x: Tensor, lengths: list[int]) -> tuple[Tensor, list[int], Tensor]:
    """The reference, sequence after sequence, joined."""
    parts = [reference.universal_transformer(layer, part) for part in x.split(lengths)] if lengths else []
    outputs, rounds, remainders = zip(*parts, strict=True) if parts else ((x,), ([],), (x.sum(1),))
    return torch.cat(outputs), [N for part in rounds for N in part], torch.cat(remainders)


def differences(name: str, lengths: list[int], dtype: torch.dtype) -> tuple[float, float, float]:
    """Of the outputs and remainders, of the inputs' gradient, of all parameters' gradients; N must be the same."""
    layer = make(name, dtype)
    x = torch.randn(sum(lengths), WIDTH).to(dtype).requires_grad_()
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the reference makes its angles in it
    try:
        y, rounds, remainders, _ = layer.ponder(x, torch.tensor(lengths, dtype=torch.int64), None, False)
        expected, expected_rounds, expected_remainders = alone(layer, x, lengths)
        assert rounds.tolist() == expected_rounds
        assert layer.rounds == sum(expected_rounds)
        weights, cost = torch.randn_like(y), torch.randn_like(remainders)
        inputs = [x, *layer.parameters()]
        found = [
            torch.autograd.grad(
                (weights * a).sum() + (cost * b).sum() + x.sum() * 0, inputs, allow_unused=True, materialize_grads=True
            )
            for a, b in ((y, remainders), (expected, expected_remainders))
        ]
    finally:
        torch.set_default_dtype(default)
    gaps = [float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(*found, strict=True)]
    outputs = torch.cat([(y - expected).flatten(), remainders - expected_remainders, x.new_zeros(1)]).detach()
    return float(outputs.abs().max()), gaps[0], max(gaps[1:])


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=8)
@given(lengths=LENGTHS)
@example(lengths=[])
@example(lengths=[0, 0])
@example(lengths=[1, 7, 7, 3, 0])
@example(lengths=[25])
def test_outputs_ponder_cost_and_gradients_equal_one_at_a_time(name: str, path: str, lengths: list[int]) -> None:
    with backend(path):  # type: ignore[arg-type]
        assert max(differences(name, lengths, torch.float64)) < 1e-11


@pytest.mark.parametrize("name", KINDS)
def test_float32_stays_within_rounding(name: str) -> None:
    outputs, inputs, parameters = differences(name, [1, 7, 7, 3, 0, 30], torch.float32)
    assert outputs < 1e-5
    assert inputs < 1e-4
    assert parameters < 1e-3


@pytest.mark.parametrize("name", ["causal", "bidirectional"])
def test_tokens_halt_in_every_round(name: str) -> None:
    """Else the tests above would not have tested much; and what halts early is not paid for."""
    layer, lengths = make(name), torch.tensor([30, 30, 9, 1])
    _, rounds, remainders, _ = layer.ponder(torch.randn(70, WIDTH).double(), lengths, None, False)
    assert rounds.unique().tolist() == [1, 2, 3, 4, 5, 6]
    assert layer.rounds == int(rounds.sum()) < 6 * 70
    assert remainders[rounds == 1].tolist() == [1.0] * int((rounds == 1).sum())
    assert bool((remainders > layer.epsilon).all())


def test_the_mean_is_weighted_by_probabilities_that_add_up_to_one() -> None:
    """Where all states of a token are the same, so is their mean: here the block adds nothing."""
    layer = make("causal")
    for part in (layer.out, layer.mlp[2]):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    nn.init.zeros_(layer.signal)
    x = torch.randn(12, WIDTH).double()
    y, rounds, _, _ = layer.ponder(x, torch.tensor([5, 7]), None, False)
    assert len(rounds.unique()) > 1
    assert torch.allclose(y, layer.norm(x), atol=1e-12)


def test_nothing_halts_without_a_threshold() -> None:
    layer = make("nothing halts")
    _, rounds, remainders, _ = layer.ponder(torch.randn(9, WIDTH).double(), torch.tensor([4, 5]), None, False)
    assert rounds.tolist() == [6] * 9
    assert remainders.tolist() == [1.0] * 9


@pytest.mark.parametrize("positions", [NoPositions, RotaryPositions])
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6))
@example(pairs=[(30, 1)])
def test_a_causal_layer_continues_from_its_state(positions: type[Positions], pairs: list[tuple[int, int]]) -> None:
    layer = make("causal")
    layer.positions = positions(WIDTH, WIDTH // 2)
    sequences = [torch.randn(a + b, WIDTH, dtype=torch.float64) for a, b in pairs]
    first, second = (torch.tensor(column) for column in zip(*pairs, strict=True))
    whole, end = layer.core(torch.cat(sequences), first + second, None)
    head, state = layer.core(torch.cat([s[:a] for s, (a, _) in zip(sequences, pairs, strict=True)]), first, None)
    tail, after = layer.core(torch.cat([s[a:] for s, (a, _) in zip(sequences, pairs, strict=True)]), second, state)
    halves = zip(head.split(first.tolist()), tail.split(second.tolist()), strict=True)
    joined = torch.cat([part for pair in halves for part in pair])
    assert torch.allclose(whole, joined, atol=1e-11)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(end, after, strict=True))
    without = layer.ponder(torch.cat(sequences), first + second, None, False)[0]
    assert torch.allclose(whole, without, atol=1e-11)


@pytest.mark.parametrize("name", ["causal", "bidirectional"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Away from where a token would come to halt in another round: there the cost jumps (Graves 2016, section 2.2)."""
    layer, lengths = make(name), torch.tensor([3, 0, 2, 2])
    parameters = dict(layer.named_parameters())
    x = torch.randn(7, WIDTH, dtype=torch.float64, requires_grad=True)
    rounds = layer.ponder(x, lengths, None, False)[1]
    assert len(rounds.unique()) > 1

    class Pondering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y, now, remainders, _ = self.layer.ponder(x, lengths, None, False)
            assert torch.equal(now, rounds)
            return y, remainders

    def pondered(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"layer.{key}": value for key, value in zip(parameters, values, strict=True)}
        return torch.func.functional_call(Pondering(), named, (x,))

    with backend("plain"):
        assert torch.autograd.gradcheck(pondered, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("causal", [False, True])
@given(data=st.data())
def test_some_queries_read_what_all_would(causal: bool, data: st.DataObject) -> None:
    """The same rows of dense attention over each whole sequence."""
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    chosen = [data.draw(st.sets(st.integers(0, length - 1)) if length else st.just(set())) for length in lengths]
    torch.manual_seed(0)
    q, k, v = torch.randn(3, sum(lengths), 2, 4, dtype=torch.float64)
    q_rows, kv_rows, counts, seen, expected = [], [], [], [], [q[:0]]
    for rows, places in zip(torch.arange(sum(lengths)).split(lengths), map(sorted, chosen), strict=True):
        counts.append(len(places))
        seen.append((places[-1] + 1 if causal else len(rows)) if places else 0)
        q_rows += rows[places].tolist()
        kv_rows += rows[: seen[-1]].tolist()
        dense = nn.functional.scaled_dot_product_attention(
            *(x[rows].transpose(0, 1)[None] for x in (q, k, v)), is_causal=causal
        )
        expected.append(dense[0].transpose(0, 1)[places])
    places_T = torch.tensor([place for places in chosen for place in sorted(places)], dtype=torch.int64)
    kv = torch.stack([k, v], 1)[kv_rows]
    found = attend_some(q[q_rows], places_T, torch.tensor(counts), kv, torch.tensor(seen), causal)
    assert torch.allclose(found, torch.cat(expected), atol=1e-12)


def test_what_does_not_fit_is_said() -> None:
    positions = NoPositions(8, 4)
    with pytest.raises(ValueError, match=r"width=8 must be a multiple of heads=3"):
        UniversalTransformer(8, 3, 2, 8, True, positions)
    with pytest.raises(ValueError, match=r"max_steps=0"):
        UniversalTransformer(8, 2, 0, 8, True, positions)
    with pytest.raises(ValueError, match=r"threshold=1.5"):
        UniversalTransformer(8, 2, 2, 8, True, positions, 1.5)
    layer = make("bidirectional")
    _, state = layer.core(torch.randn(2, 8).double(), torch.tensor([2]), None)
    with pytest.raises(ValueError, match=r"model.causal=true"):
        layer.core(torch.randn(2, 8).double(), torch.tensor([2]), state)


def test_a_layer_takes_and_returns_ragged() -> None:
    layer = make("causal")
    x = Ragged(torch.randn(5, WIDTH).double(), Layout([2, 0, 3]))
    assert torch.equal(layer(x).values, layer.ponder(x.values, x.lengths, None, False)[0])
    assert layer(x).layout is x.layout
