"""Blocks: what a checkpointed one keeps, how the second part is made, and the cache that steps write to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from seqlab.layers.attention import tiles
from seqlab.layers.attention.modules import CrossAttention, SelfAttention
from seqlab.layers.backend import backend
from seqlab.layers.positions import NoPositions, RelativePositions, RotaryPositions
from seqlab.layers.transformer import TransformerStack
from seqlab.models.encoders import TransformerEncoder
from seqlab.models.state import State
from seqlab.ragged import Layout, Ragged

OPTIONS: dict[str, dict[str, Any]] = {
    "plainest": {},
    "window": {"window": 3},
    "one key head": {"kv_heads": 1, "activation": "swiglu", "norm": "rms"},
}


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that sequences of a few tokens are cut into several tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", 4)
        yield


def stack(scheme: type[NoPositions] = RotaryPositions, **options: Any) -> TransformerStack:
    torch.manual_seed(0)
    made = TransformerStack(8, 2, 2, 16, True, scheme(8, 4), **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double()


def split(x: Tensor, lengths: Tensor) -> list[Tensor]:
    return list(x.split(lengths.tolist()))


# -------------------------------------------------------------------------------------------------------- checkpointing


def kept_and_gradients(made: TransformerStack, lengths: Tensor) -> tuple[int, list[Tensor]]:
    """Bytes kept for the backward pass, and the gradients of everything."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(int(lengths.sum()), 8, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = made.core(x, lengths, None)[0]
    parameters = list(made.parameters())
    own = sum(kept.get(parameter.untyped_storage().data_ptr(), 0) for parameter in parameters)
    return sum(kept.values()) - own, list(torch.autograd.grad(out.square().sum(), [x, *parameters]))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(dropout: float) -> None:
    lengths = torch.tensor([7, 0, 30, 30, 2])
    options = {"dropout": dropout, "attention_dropout": dropout}
    whole, gradients = kept_and_gradients(stack(**options), lengths)
    less, again = kept_and_gradients(stack(**options, checkpointing=True), lengths)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(gradients, again, strict=True))
    rows = int(lengths.sum()) * 8 * 8  # bytes of [T, D]
    assert less <= 4.5 * rows  # what enters each block and the last norm, and the norm's own; statistics
    assert whole > 4 * less


def test_a_checkpointed_pass_says_that_it_cannot_be_continued() -> None:
    made, lengths = stack(checkpointing=True), torch.tensor([2, 1])
    _, state = made.core(torch.randn(3, 8).double(), lengths, None)
    with pytest.raises(ValueError, match=r"model.checkpointing=true keeps no keys"):
        made.core(torch.randn(3, 8).double(), lengths, state)
    made.eval()
    _, state = made.core(torch.randn(3, 8).double(), lengths, None)
    made.core(torch.randn(3, 8).double(), lengths, state)


# ---------------------------------------------------------------------------------------------------------------- parts


def test_a_gate_costs_no_parameters() -> None:
    sizes = []
    for activation in ("gelu", "swiglu"):
        encoder = TransformerEncoder(5, NoPositions, width=96, layers=1, heads=2, activation=activation)  # type: ignore[arg-type]
        sizes.append(sum(weight.numel() for weight in encoder.stack.blocks[0].mlp.parameters() if weight.dim() == 2))
    assert sizes == [8 * 96**2, 8 * 96**2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, r"heads=4 must be a multiple of kv_heads=3"),
        ({"window": 0}, r"window=0"),
        ({"dropout": 1.0}, r"attention_dropout=1.0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttention(8, 4, True, NoPositions(8, 2), **options)


def test_buckets_of_distances_are_those_of_the_paper() -> None:
    with pytest.raises(ValueError, match=r"positions.buckets=6"):
        RelativePositions(8, 4, buckets=6)
    scheme = RelativePositions(8, 4, buckets=32, max_distance=128)
    nn.init.normal_(scheme.table)
    before = scheme.bucket(-torch.arange(200), True)
    assert before[:16].tolist() == list(range(16))
    assert before[[16, 17, 18, 19, 127, 128, 199]].tolist() == [16, 16, 16, 17, 31, 31, 31]
    for causal in (True, False):
        bias_HR = scheme.bias(causal)
        assert bias_HR is not None
        for distance in range(-128, 1 if causal else 129):
            expected = [reference.relative_bias(scheme, head, distance, causal) for head in (0, 1)]
            assert bias_HR[:, 128 + distance].equal(torch.stack(expected))


# ------------------------------------------------------------------------------------------------------ cross-attention


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("kv_heads", [1, 4])
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6))
def test_cross_attention_equals_one_at_a_time(path: str, kv_heads: int, pairs: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    layer = CrossAttention(8, 4, memory_width=6, kv_heads=kv_heads).double()
    lengths, others = (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))
    x = torch.randn(int(lengths.sum()), 8).double().requires_grad_()
    memory = torch.randn(int(others.sum()), 6).double().requires_grad_()
    with backend(path):  # type: ignore[arg-type]
        out = layer(Ragged(x, Layout(lengths)), Ragged(memory, Layout(others))).values
    parts = zip(split(x, lengths), split(memory, others), strict=True) if pairs else []
    expected = torch.cat([x[:0], *(reference.cross_attention(layer, *part) for part in parts)])
    assert torch.allclose(out, expected, atol=1e-11)
    wanted, weights = [x, memory, *layer.parameters()], torch.randn_like(out)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
        for y in (out + 0 * x.sum(), expected + 0 * x.sum())
    )
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(ours, theirs, strict=True))


def test_a_remembered_memory_is_selected_by_its_last_two() -> None:
    layer = CrossAttention(8, 2).double()
    memory, others = torch.randn(9, 8).double(), torch.tensor([4, 0, 5])
    k, v, rows, lengths = layer.remember(memory, others)
    beams = torch.tensor([2, 2, 0, 1])
    layout, where = Layout(lengths).select(beams)
    x = torch.randn(4, 8).double()
    out = layer.core(x, torch.ones(4, dtype=torch.int64), [k, v, rows[where], layout.lengths])
    parts = [split(memory, others)[i] for i in beams.tolist()]
    expected = [reference.cross_attention(layer, row[None], part) for row, part in zip(x, parts, strict=True)]
    assert torch.allclose(out, torch.cat(expected), atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------- cache


def rows(state: list[Tensor]) -> list[list[Tensor]]:
    """Keys and values of every sequence, wherever they lie."""
    return [[tensor[where] for where in split(state[-2], state[-1])] for tensor in state[:-3]]


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("scheme", [RotaryPositions, RelativePositions])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@given(pieces=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 1)), min_size=2, max_size=5))
def test_pieces_of_any_length_equal_the_whole(
    options: dict[str, Any], scheme: type[NoPositions], path: str, recording: bool, pieces: list[tuple[int, int, int]]
) -> None:
    made = stack(scheme, **options)
    lengths = torch.tensor(pieces)
    sequences = [torch.randn(n, 8).double() for n in lengths.sum(0).tolist()]
    with torch.set_grad_enabled(recording), backend(path):  # type: ignore[arg-type]
        whole, end = made.core(torch.cat(sequences), lengths.sum(0), None)
        state, read, parts = None, torch.zeros(3, dtype=torch.int64), []
        for piece in lengths:
            spans = [slice(a, a + n) for a, n in zip(read.tolist(), piece.tolist(), strict=True)]
            x = torch.cat([sequence[span] for sequence, span in zip(sequences, spans, strict=True)])
            out, state = made.core(x, piece, state)
            parts.append(split(out, piece))
            read = read + piece
    assert state is not None
    joined = torch.cat([torch.cat(column) for column in zip(*parts, strict=True)])
    assert torch.allclose(joined, whole, atol=1e-11)
    for ours, theirs in zip(rows(state), rows(end), strict=True):
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(ours, theirs, strict=True))


def test_gradients_flow_through_a_cache() -> None:
    made, lengths = stack(), torch.tensor([3, 2])
    x = torch.randn(10, 8).double().requires_grad_()
    whole = made.core(x[[0, 1, 2, 5, 6, 7, 3, 4, 8, 9]], 2 * lengths, None)[0]
    _, state = made.core(x[:5], lengths, None)
    again = torch.cat([made.core(x[:5], lengths, None)[0], made.core(x[5:], lengths, state)[0]])
    weights = torch.randn(10, 8).double()
    ours = torch.autograd.grad((again * weights).sum(), x)[0]
    theirs = torch.autograd.grad((whole * weights[[0, 1, 2, 5, 6, 7, 3, 4, 8, 9]]).sum(), x)[0]
    assert torch.allclose(ours, theirs, atol=1e-11)


@torch.no_grad()
def encoder_after(lengths: list[int], steps: int) -> tuple[TransformerEncoder, State, list[list[int]]]:
    """An encoder, its state after prompts and steps, and all that it has read."""
    torch.manual_seed(0)
    encoder = TransformerEncoder(11, RotaryPositions, width=8, layers=2, heads=2, kv_heads=1).double().eval()
    prompts = [torch.randint(11, (length,)) for length in lengths]
    _, state = encoder(Ragged.from_list(prompts))
    read = [prompt.tolist() for prompt in prompts]
    for _ in range(steps):
        tokens = torch.randint(11, (len(lengths),))
        _, state = encoder.step(tokens, state)
        read = [[*one, int(token)] for one, token in zip(read, tokens, strict=True)]
    return encoder, state, read


@torch.no_grad()
def right(encoder: TransformerEncoder, hidden_BD: Tensor, read: list[list[int]]) -> bool:
    alone = [encoder(Ragged.from_list([torch.tensor(one)]))[0].values[-1] for one in read]
    return torch.allclose(hidden_BD, torch.stack(alone), atol=1e-11)


@pytest.mark.parametrize("steps", [0, 1, 5, 40])
@torch.no_grad()
def test_a_state_may_be_continued_twice_and_sequences_may_repeat(steps: int) -> None:
    encoder, state, read = encoder_after([3, 1, 3, 5], steps)
    first, second = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    one, after_one = encoder.step(first, state)
    two, after_two = encoder.step(second, state)
    assert right(encoder, one, [[*r, int(t)] for r, t in zip(read, first, strict=True)])
    assert right(encoder, two, [[*r, int(t)] for r, t in zip(read, second, strict=True)])
    third = torch.tensor([9, 9, 9, 9])
    for tokens, after in ((first, after_one), (second, after_two)):  # neither has written into the other
        hidden, _ = encoder.step(third, after)
        assert right(encoder, hidden, [[*r, int(t), 9] for r, t in zip(read, tokens, strict=True)])
    beams = [2, 2, 0, 3, 2]
    hidden, chosen = encoder.step(torch.tensor([1, 2, 3, 4, 5]), state.select(torch.tensor(beams)))
    assert right(encoder, hidden, [[*read[i], t] for i, t in zip(beams, (1, 2, 3, 4, 5), strict=True)])
    _, other = encoder(Ragged.from_list([torch.tensor([7, 8])]))
    for parts, expected in (
        (
            [chosen.select(torch.tensor([4, 1])), state.select(torch.tensor([1]))],
            [[*read[2], 5], [*read[2], 2], read[1]],
        ),
        ([state.select(torch.tensor([0])), other, chosen.select(torch.tensor([3]))], [read[0], [7, 8], [*read[3], 4]]),
        ([other.select(torch.tensor([], dtype=torch.int64)), state.select(torch.tensor([1]))], [read[1]]),
    ):
        hidden, _ = encoder.step(torch.ones(len(expected), dtype=torch.int64), State.cat(parts))
        assert right(encoder, hidden, [[*one, 1] for one in expected])


@torch.no_grad()
def test_copies_of_a_sequence_do_not_share_what_they_add() -> None:
    encoder, state, read = encoder_after([3, 1], 2)  # there is room, and nobody has written there
    hidden, after = encoder.step(torch.tensor([1, 2, 3]), state.select(torch.tensor([1, 0, 1])))
    assert right(encoder, hidden, [[*read[1], 1], [*read[0], 2], [*read[1], 3]])
    hidden, _ = encoder.step(torch.tensor([4, 4, 4]), after)
    assert right(encoder, hidden, [[*read[1], 1, 4], [*read[0], 2, 4], [*read[1], 3, 4]])


@torch.no_grad()
def test_steps_seldom_move_the_cache_and_selecting_and_joining_never_do() -> None:
    encoder, state, _ = encoder_after([30, 20, 10], 0)
    nothing = state.select(torch.tensor([], dtype=torch.int64))
    places = set()
    for step in range(100):
        tokens = torch.randint(11, (len(state.lengths),))  # type: ignore[arg-type]
        _, state = encoder.step(tokens, state)
        place = state.tensors[0].data_ptr()
        if step % 20 == 10:
            state = state.select(torch.tensor([2, 0, 0]))
        state = State.cat([nothing, state.select(torch.tensor([0])), state.select(torch.tensor([1, 2]))])
        assert state.tensors[0].data_ptr() == place
        places.add(place)
    assert len(places) <= 5
    assert state.tensors[0].shape[0] < 1.5 * int(state.lengths.sum()) + 100  # copies share what they have in common
