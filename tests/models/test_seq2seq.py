"""Sequence-to-sequence models: a batch is what the equations say of each pair, at once, in pieces or step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

import reference
from counting import counted
from my_module import MyCell
from seqlab.config.compose import conf_folder
from seqlab.config.instantiate import instantiate
from seqlab.errors import InputError
from seqlab.layers.attention import attend as attend_module
from seqlab.layers.attention import tiles
from seqlab.layers.backend import backend
from seqlab.layers.kernels import kernels
from seqlab.layers.positions import LearnedPositions, RelativePositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.state import Seq2SeqState
from seqlab.ragged import Layout, Ragged

SOURCES, TARGETS, WIDTH = 11, 13, 8
relative = partial(RelativePositions, buckets=8, max_distance=9)


def transformer(positions: Callable[..., Any], causal: bool = False, **options: Any) -> Encoder:
    return TransformerEncoder(SOURCES, positions, width=WIDTH, layers=2, heads=2, causal=causal, **options)


def recurrent(cell: type[nn.Module], layers: int = 2, **options: Any) -> Encoder:
    return RecurrentEncoder(SOURCES, cell, width=WIDTH, layers=layers, **options)


MODELS: dict[str, tuple[Callable[[], Encoder], dict[str, Any]]] = {
    "lstm": (lambda: recurrent(LSTMCell), {}),
    "lstm, both ways, residual": (lambda: recurrent(LSTMCell, causal=False, residual=True), {}),
    "lstm, no attention": (lambda: recurrent(LSTMCell), {"attention": False}),
    "gru, a deeper decoder": (lambda: recurrent(GRUCell, layers=1), {"decoder_layers": 3, "tied": False}),
    "tanh, a shallower decoder": (lambda: recurrent(TanhCell, causal=False), {"decoder_layers": 1}),
    "mingru, both ways": (lambda: recurrent(MinGRUCell, causal=False, variational=True), {}),
    "own cell": (lambda: recurrent(MyCell, causal=False), {}),
    "rotary": (lambda: transformer(RotaryPositions), {}),
    "relative": (lambda: transformer(relative), {}),
    "learned, causal": (lambda: transformer(LearnedPositions, causal=True), {"decoder_layers": 1}),
    "everything": (
        lambda: transformer(relative, kv_heads=1, activation="swiglu", norm="rms", checkpointing=True, window=4),
        {"decoder_layers": 3},
    ),
    "universal": (lambda: UniversalEncoder(SOURCES, RotaryPositions, WIDTH, 2, 2, causal=False, threshold=0.9), {}),
}


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that sequences of a few tokens are cut into several tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", 4)
        yield


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Also where a tensor is made from a list."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def make(name: str) -> Seq2Seq:
    torch.manual_seed(0)
    encoder, options = MODELS[name]
    model = Seq2Seq(encoder(), SOURCES, TARGETS, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def pairs(lengths: list[tuple[int, int]]) -> tuple[Ragged, Ragged]:
    """Sources and targets of these lengths."""
    generator = torch.Generator().manual_seed(0)
    sides = []
    for side, vocabulary in enumerate((SOURCES, TARGETS)):
        layout = Layout(torch.tensor([pair[side] for pair in lengths], dtype=torch.int64))
        sides.append(Ragged(torch.randint(vocabulary, (layout.total,), generator=generator), layout))
    return sides[0], sides[1]


def alone(model: Seq2Seq, source_L: Tensor, prefix_L: Tensor) -> Tensor:
    """One pair by the equations, [L, D]."""
    encoder, decoder = model.encoder, model.decoder
    x_LD = reference.embedding(encoder.embedding, source_L)
    y_LD = reference.embedding(decoder.embedding, prefix_L)
    if not isinstance(encoder.stack, RecurrentStack):
        return reference.transformer_stack(decoder.stack, y_LD, reference.stack(encoder.stack, x_LD))
    memory_LD, ends = reference.recurrent_stack(encoder.stack, x_LD)
    if not encoder.causal:  # the states of both directions, layer by layer
        ends = [[(a + b) / 2 for a, b in zip(*both, strict=True)] for both in zip(ends[::2], ends[1::2], strict=True)]
    begin = [layer[0].cell.initial_state(1) for layer in decoder.stack.layers]
    h_LD, _ = reference.recurrent_stack(decoder.stack, y_LD, [*ends, *begin[len(ends) :]])
    return h_LD if decoder.attention is None else reference.global_attention(decoder.attention, h_LD, memory_LD)


def gradients(model: nn.Module, hidden_TD: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights_TD = torch.randn(hidden_TD.shape, generator=generator)
    total = (hidden_TD * weights_TD).sum() + 0 * next(model.parameters()).sum()
    return list(torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True))


def close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


LENGTHS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 2, 5, 17]), st.sampled_from([0, 1, 3, 3, 6])), max_size=5)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8)
@given(lengths=LENGTHS)
@example(lengths=[(5, 3), (2, 0), (0, 4), (2, 3), (2, 3), (0, 0), (1, 17)])
@example(lengths=[])
def test_a_batch_of_pairs_equals_one_at_a_time(name: str, path: str, lengths: list[tuple[int, int]]) -> None:
    model = make(name)
    model.train(name == "everything")  # nothing else is checkpointed
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    source, prefix = pairs(lengths)
    with backend(path):  # type: ignore[arg-type]
        hidden, costs = model.encode(source, prefix)
        ours = gradients(model, hidden.values)
    assert costs.keys() == model.costs.keys()
    one_by_one = zip(source.to_list(), prefix.to_list(), strict=True)
    expected = torch.cat([model.head.weight[:0], *(alone(model, *pair) for pair in one_by_one)])
    assert close([hidden.values], [expected])
    assert close(ours, gradients(model, expected))


@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8)
@given(pieces=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 6)), max_size=4))
@example(pieces=[(0, 2, 1), (1, 1, 1), (0, 0, 0), (4, 0, 0)])
def test_pieces_and_steps_equal_the_whole_target(name: str, recording: bool, pieces: list[tuple[int, ...]]) -> None:
    model = make(name)
    sizes = torch.tensor([*pieces, (1, 1, 1), (1, 1, 1)])
    lengths = sizes.sum(0).tolist()
    source, prefix = pairs(list(zip((4, 0, 4), lengths, strict=True)))
    with torch.set_grad_enabled(recording):
        whole = model.encode(source, prefix)[0]
        state = model.remember(source)
        read, parts = torch.zeros(3, dtype=torch.int64), []
        for i, piece in enumerate(sizes):
            rows = [
                tokens[a : a + n] for tokens, a, n in zip(prefix.to_list(), read.tolist(), piece.tolist(), strict=True)
            ]
            if i >= len(pieces):
                hidden_BD, state = model.step(torch.cat(rows), state)
                parts.append(list(hidden_BD.split(1)))
            else:
                hidden, state = model(Ragged.from_list(rows), state)
                parts.append(hidden.to_list())
            read = read + piece
    ours = torch.cat([torch.cat(column) for column in zip(*parts, strict=True)])
    assert close([ours], [whole.values])
    if recording:
        assert close(gradients(model, ours), gradients(model, whole.values))


@pytest.mark.parametrize("steps", [0, 1, 20])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_states_select_repeat_reorder_and_join_while_decoding(name: str, steps: int) -> None:
    model = make(name)
    source, first = pairs([(3, 2), (0, 1), (5, 0)])
    _, state = model(first, model.remember(source))
    read = [tokens.tolist() for tokens in first.to_list()]
    for i in range(steps):
        tokens = [(i + j) % TARGETS for j in range(3)]
        _, state = model.step(torch.tensor(tokens), state)
        read = [[*one, token] for one, token in zip(read, tokens, strict=True)]
    beams = [2, 0, 0, 1, 2]
    chosen = state.select(torch.tensor(beams))
    _, chosen = model.step(torch.tensor([1, 2, 3, 4, 5]), chosen)
    fresh = model.remember(source.select([0]))  # which has read nothing, beside those that have
    joined = Seq2SeqState.cat([chosen.select(torch.tensor([4, 2])), fresh, state.select(torch.tensor([1]))]).detach()
    hidden_BD, _ = model.step(torch.tensor([6, 7, 8, 9]), joined)
    told = [(2, [*read[2], 5, 6]), (0, [*read[0], 3, 7]), (0, [8]), (1, [*read[1], 9])]
    expected = [alone(model, source.to_list()[i], torch.tensor(tokens))[-1] for i, tokens in told]
    assert close([hidden_BD], [torch.stack(expected)])


@pytest.mark.parametrize("name", [name for name in MODELS if name != "universal"])
@settings(max_examples=8)
@given(lengths=st.lists(st.tuples(st.sampled_from([1, 3, 6]), st.sampled_from([1, 2, 5])), max_size=4))
@example(lengths=[(5, 3), (1, 7), (4, 1)])
def test_the_model_claims_what_its_equations_cost(name: str, lengths: list[tuple[int, int]]) -> None:
    """Of no empty side: alone, that has no gradient; in a batch it has one, of zeros."""
    model = make(name)
    for module in model.modules():
        if hasattr(module, "initial_state") and not isinstance(module, RecurrentStack):  # as if trained
            begin = module.initial_state
            module.initial_state = lambda batch, begin=begin: [x.requires_grad_() for x in begin(batch)]
    source, prefix = pairs(lengths)

    def one_at_a_time() -> Tensor:
        hidden = [alone(model, *pair) for pair in zip(source.to_list(), prefix.to_list(), strict=True)]
        return model.head.loss(torch.cat([model.head.weight[:0], *hidden]), prefix.values)

    assert model.flops(source.lengths, prefix.lengths) == counted(one_at_a_time)


@torch.no_grad()
def test_selecting_moves_no_row_of_the_source() -> None:
    for name in ("lstm", "rotary"):
        model = make(name)
        state = model.remember(pairs([(3, 0), (4, 0)])[0])
        chosen = state.select(torch.tensor([1, 1, 0]))
        places = [[rows.data_ptr() for rows in each.memory.tensors] for each in (state, chosen)]
        assert places[0] == places[1] != []


# ---------------------------------------------------------------------------------------------------------------- parts


def test_embeddings_are_shared_as_asked() -> None:
    encoder = recurrent(GRUCell)
    assert Seq2Seq(encoder, SOURCES, TARGETS).head.weight.shape == (TARGETS, WIDTH)
    model = Seq2Seq(encoder, SOURCES, SOURCES, shared_embedding=True, tied=True)
    assert model.decoder.embedding.weight is encoder.embedding.weight
    assert model.head.weight is encoder.embedding.weight
    model = Seq2Seq(encoder, SOURCES, SOURCES)
    assert (
        len({id(weight) for weight in (model.head.weight, *(x.embedding.weight for x in (encoder, model.decoder)))})
        == 3
    )
    with pytest.raises(ValueError, match=r"11 and 13 tokens.*shared_embedding=false"):
        Seq2Seq(encoder, SOURCES, TARGETS, shared_embedding=True)


def test_what_cannot_be_says_so() -> None:
    with pytest.raises(ValueError, match=r"decoder_layers=0"):
        Seq2Seq(recurrent(GRUCell), SOURCES, TARGETS, decoder_layers=0)
    with pytest.raises(ValueError, match=r"attention=false .* model=lstm"):
        Seq2Seq(transformer(RotaryPositions), SOURCES, TARGETS, attention=False)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", ["lstm", "rotary"])
@pytest.mark.parametrize("targets", [1, 3])
def test_targets_without_a_source_are_refused(name: str, path: str, targets: int) -> None:
    model = make(name)
    source, prefix = pairs([(3, 2), (4, 2), (2, 2)])[0].select([0, 1]), pairs([(1, 2)] * targets)[1]
    with backend(path), pytest.raises(ValueError, match=rf"{targets} targets and 2 sources"):  # type: ignore[arg-type]
        model.encode(source, prefix)
    with backend(path), pytest.raises(ValueError, match=rf"{targets} targets and 2 sources"):  # type: ignore[arg-type]
        model(prefix, model.remember(source))


def test_a_run_tells_what_looks_at_the_source() -> None:
    for name, width in (("lstm", WIDTH), ("rotary", WIDTH // 2)):  # processors differ in the widths they fill
        words = kernels(make(name), torch.device("cpu"), torch.float32)
        assert words["attention to the source"] == attend_module.describe(torch.device("cpu"), torch.float32, width)
    assert "attention to the source" not in kernels(make("lstm, no attention"), torch.device("cpu"), torch.float32)
    weighted = Seq2Seq(transformer(relative, attention_dropout=0.1), SOURCES, TARGETS)
    assert "explicit" in kernels(weighted, torch.device("cpu"), torch.float32)["attention to the source"]


def test_only_known_positions_limit_a_target() -> None:
    assert make("rotary").max_length is None
    assert make("learned, causal").max_length == 2048


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["lstm", "rotary", "relative"])
def test_a_decoder_has_the_dropout_of_its_encoder(name: str, dropout: float) -> None:
    kind = recurrent(LSTMCell, dropout=dropout) if name == "lstm" else transformer(RotaryPositions, dropout=dropout)
    model = Seq2Seq(kind, SOURCES, TARGETS)
    assert {module.p for module in model.decoder.modules() if isinstance(module, nn.Dropout)} == {dropout}
    source, prefix = pairs([(4, 6)])
    torch.manual_seed(0)
    memory_TD, _, last = model.encoder.eval().read(source.values, source.lengths)
    one, other = (model.decoder.train().encode(prefix, source.with_values(memory_TD), last).values for _ in range(2))
    assert torch.equal(one, other) == (dropout == 0)


NODE = {
    "_target_": "seqlab.models.seq2seq.Seq2Seq",
    "decoder_layers": None,
    "attention": True,
    "shared_embedding": False,
    "tied": True,
    "label_smoothing": 0.0,
}
CONTEXT = {"vocabulary": SOURCES, "target_vocabulary": TARGETS}


def composed(path: Path) -> dict[str, Any]:
    """A choice of the group `model`, as Hydra composes it."""
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(node, dict)
    for choice in node.pop("defaults", []):
        if choice != "_self_":
            node |= {group: composed(path.parent / group / f"{name}.yaml") for group, name in choice.items()}
    return {str(key): value for key, value in node.items()}


@pytest.mark.parametrize("path", sorted((conf_folder() / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_choice_of_a_model_has_a_decoder_of_its_kind_and_size(path: Path) -> None:
    node = {**composed(path), "width": 24}
    model = instantiate({**NODE, "encoder": node}, "task.model", **CONTEXT)
    assert model.decoder.output_size == 24
    if "layers" in node:
        assert len(model.decoder.stack.layers if "cell" in node else model.decoder.stack.blocks) == node["layers"]
    small = instantiate({**NODE, "encoder": node, "decoder_layers": 1}, "task.model", **CONTEXT)
    source, prefix = pairs([(3, 2)])
    assert small.encode(source, prefix)[0].values.shape == (2, 24)
    with pytest.raises(InputError, match=r"task.model: .*shared_embedding=false"):
        instantiate({**NODE, "encoder": node, "shared_embedding": True}, "task.model", **CONTEXT)
