"""A tagger answers to a sentence in company as alone, whichever way its words arise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from seqlab.layers.backend import backend
from seqlab.layers.crf import CRFHead
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.positions import LearnedPositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell
from seqlab.layers.word_vectors import WordVectors
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged

VOCABULARY, WORDS, LABELS = 11, 7, 3


def lstm() -> Encoder:
    return RecurrentEncoder(VOCABULARY, LSTMCell, width=8, causal=False)


def transformer() -> Encoder:
    return TransformerEncoder(VOCABULARY, LearnedPositions, width=8, layers=2, heads=2, causal=False)


def universal() -> Encoder:
    return UniversalEncoder(VOCABULARY, RotaryPositions, width=8, heads=2, max_steps=4, causal=False)


spelled = partial(WordVectors, cell=GRUCell, spelling=3)
TAGGERS: dict[str, Callable[[], Tagger]] = {
    "lstm, first pieces, crf": lambda: Tagger(lstm(), LABELS),
    "lstm, last pieces, softmax": lambda: Tagger(lstm(), LABELS, "softmax", "last"),
    "lstm, spelled words, crf": lambda: Tagger(lstm(), LABELS, word_vectors=spelled),
    "lstm, known words, crf": lambda: Tagger(lstm(), LABELS, word_vectors=partial(spelled, word_vocabulary=WORDS)),
    "transformer, mean of pieces, crf": lambda: Tagger(transformer(), LABELS, pooling="mean"),
    "transformer, spelled words, softmax": lambda: Tagger(transformer(), LABELS, "softmax", word_vectors=spelled),
    "universal, first pieces, softmax": lambda: Tagger(universal(), LABELS, "softmax"),
    "universal, spelled words, crf": lambda: Tagger(universal(), LABELS, word_vectors=spelled),
}
# Sentences of words of so many pieces.
SENTENCES = st.lists(st.lists(st.sampled_from([1, 1, 2, 3]), max_size=5), max_size=4)


def make(name: str) -> Tagger:
    torch.manual_seed(3)
    model = TAGGERS[name]().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def batch_of(sentences: list[list[int]]) -> tuple[Ragged, Ragged, Ragged, Ragged]:
    """Tokens, pieces, words and targets."""
    generator = torch.Generator().manual_seed(len(sentences))
    pieces = [piece for sentence in sentences for piece in sentence]
    words = Layout(torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64))
    tokens = Layout(torch.tensor([sum(sentence) for sentence in sentences], dtype=torch.int64))
    return (
        Ragged(torch.randint(VOCABULARY, (tokens.total,), generator=generator), tokens),
        Ragged(torch.tensor(pieces, dtype=torch.int64), words),
        Ragged(torch.randint(WORDS, (words.total,), generator=generator), words),
        Ragged(torch.randint(LABELS, (words.total,), generator=generator), words),
    )


def losses(model: Tagger, tokens: Ragged, pieces: Ragged, words: Ragged, targets: Ragged) -> tuple[Tensor, Tensor]:
    """The head's loss and the sum of all costs."""
    hidden, costs = model.encode(tokens, pieces, words)
    loss = model.head.loss(hidden.values, targets.values, targets.lengths)
    return loss, sum(costs.values(), start=loss * 0)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", TAGGERS)
@settings(max_examples=6)
@given(sentences=SENTENCES)
@example(sentences=[])
@example(sentences=[[], []])
@example(sentences=[[1], [3, 1, 2], [], [2, 2, 2], [1, 1, 4, 1, 1, 1]])
def test_a_batch_of_sentences_equals_one_at_a_time(name: str, path: str, sentences: list[list[int]]) -> None:
    model, batch = make(name), batch_of(sentences)
    parameters = list(model.parameters())
    with backend(path):  # type: ignore[arg-type]
        hidden = model(*batch[:3])
        together = losses(model, *batch)
    single = [[part.select([i]) for part in batch] for i in range(len(sentences))]
    alone = [losses(model, *parts) for parts in single]
    assert hidden.layout == batch[1].layout
    for part, parts in zip(hidden.to_list(), single, strict=True):
        assert torch.allclose(part, model(*parts[:3]).values, atol=1e-11)
    for k in range(2):
        total = torch.stack([loss[k] for loss in alone]).sum() if alone else together[k] * 0
        assert torch.allclose(together[k], total, atol=1e-10)
        ours, theirs = (
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in (together[k], total)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-10)
    answers = model.head.decode(hidden.values, hidden.lengths).split(hidden.lengths.tolist()) if sentences else ()
    for tags, parts in zip(answers, single, strict=True):
        one = model(*parts[:3])
        assert torch.equal(tags, model.head.decode(one.values, one.lengths))


@pytest.mark.parametrize("name", [name for name in TAGGERS if "universal" not in name])
def test_autocast_stays_near(name: str) -> None:
    model, batch = make(name).float(), batch_of([[1], [3, 1, 2], [], [2, 2, 2], [1, 1, 4, 1, 1, 1]])
    exact = losses(model, *batch)[0]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = losses(model, *batch)[0]
    narrow.backward()
    assert 0 < abs((narrow - exact).item()) < 0.05 * exact.item()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.head.parameters())


@pytest.mark.parametrize(("pooling", "rows"), [("first", [0, 2, 3]), ("last", [1, 2, 5])])
def test_a_word_is_its_first_piece_or_its_last(pooling: str, rows: list[int]) -> None:
    tokens, pieces, _, _ = batch_of([[2, 1], [3]])
    model = Tagger(lstm().eval(), LABELS, pooling=pooling)  # type: ignore[arg-type]
    assert torch.equal(model(tokens, pieces).values, model.encoder.encode(tokens)[0].values[rows])


def test_spelled_words_are_read_in_the_place_of_tokens() -> None:
    model = make("lstm, known words, crf")
    tokens, pieces, words, _ = batch_of([[2, 1, 3]])
    spelt = model.encoder.embedding.weight[tokens.values].split([2, 1, 3])
    assert model.word_vectors is not None
    rows = [reference.word_vector(model.word_vectors, *one) for one in zip(spelt, words.values.tolist(), strict=True)]
    expected, _ = reference.recurrent_stack(model.encoder.stack, torch.stack(rows))
    assert torch.allclose(model(tokens, pieces, words).values, expected, atol=1e-11)


def test_the_head_is_the_one_that_was_asked_for() -> None:
    allowed = (torch.ones(3, 3).triu().bool(), torch.tensor([True, False, False]), torch.tensor([True, True, True]))
    model = Tagger(lstm(), LABELS, allowed=allowed)
    assert isinstance(model.head, CRFHead)
    tags = model.head.decode(torch.randn(50, 16), torch.tensor([50])).tolist()
    assert tags[0] == 0
    assert tags == sorted(tags)
    assert isinstance(Tagger(lstm(), LABELS, "softmax", allowed=allowed).head, SoftmaxHead)


def test_pieces_must_add_up() -> None:
    tokens, pieces, _, _ = batch_of([[2, 1], [3]])
    with pytest.raises(ValueError, match="the words have 7 pieces, and there are 6"):
        make("lstm, first pieces, crf")(tokens, pieces.map(lambda x: x.clamp(min=2)))
