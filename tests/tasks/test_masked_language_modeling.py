"""Hidden tokens: how many, which, what is read in their place, and that nothing else is predicted."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.data.preprocessing.masked_language_modeling import MaskedLanguageModelingPreprocessor
from seqlab.inference.predictor import Predictor
from seqlab.layers.positions import RotaryPositions
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.ragged import Ragged
from seqlab.tasks.masked_language_modeling import MaskedLanguageModeling
from seqlab.text.tokenizer_training import Bytes, Words
from seqlab.training.evaluation import evaluate
from seqlab.training.invariance import differences

VOCABULARY = 50


def encoder_of(name: str, vocabulary: int = VOCABULARY, width: int = 6) -> Encoder:
    if name == "recurrent":
        return RecurrentEncoder(vocabulary, LSTMCell, width=width, causal=False, dropout=0.0)
    if name == "universal":
        return UniversalEncoder(vocabulary, RotaryPositions, width=8, heads=2, max_steps=2, causal=False, dropout=0.0)
    return TransformerEncoder(vocabulary, RotaryPositions, width=8, layers=1, heads=2, causal=False, dropout=0.0)


def make(name: str = "transformer", tied: bool = True, **shares: float) -> MaskedLanguageModeling:
    torch.manual_seed(0)
    return MaskedLanguageModeling(MaskedLanguageModel(encoder_of(name), VOCABULARY, tied), **shares)


def batch_of(lengths: list[int], first_id: int = 0) -> Batch:
    """Texts of these many tokens, of which the first is 0 and no other."""
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]
    for text in texts:
        text[:1] = 0
    tokens = Ragged.from_list(texts) if texts else Ragged(torch.zeros(0, dtype=torch.int64), batch_layout(lengths))
    ids = torch.arange(len(lengths)) + first_id
    return Batch(tokens, tokens, ids, torch.ones_like(ids))


def batch_layout(lengths: list[int]) -> Any:
    return Ragged.from_padded(torch.zeros(len(lengths), 0), torch.zeros(len(lengths), dtype=torch.int64)).layout


@pytest.mark.parametrize("training", [True, False])
@given(lengths=st.lists(st.sampled_from([0, 1, 2, 7, 8, 21, 101]), min_size=1, max_size=6))
def test_each_text_hides_its_share_but_never_its_first_token(training: bool, lengths: list[int]) -> None:
    task = make(masked=1.0, random=0.0)
    task.model.train(training)
    batch = batch_of(lengths)
    read, rows_N = task.hide(batch)
    hidden = read.values == task.model.mask
    assert rows_N.tolist() == hidden.nonzero().flatten().tolist()
    assert [int(part.sum()) for part in read.with_values(hidden).to_list()] == [
        math.ceil(15 * max(0, length - 1) / 100) for length in lengths
    ]
    assert not hidden[batch.tokens.layout.positions == 0].any()
    assert torch.equal(read.values[~hidden], batch.tokens.values[~hidden])
    assert task.counts(batch) == {"loss": len(rows_N)}


def test_all_places_and_fates_are_drawn_as_often_as_they_should() -> None:
    task = make(share=0.25)
    batch = batch_of([9] * 4000)
    read, rows_N = task.hide(batch)
    places = torch.bincount(batch.tokens.layout.positions[rows_N], minlength=9).double()
    assert places[0] == 0
    assert (places[1:] / 4000 - 0.25).abs().max() < 0.03
    before, after = batch.tokens.values[rows_N], read.values[rows_N]
    masked = float((after == task.model.mask).double().mean())
    kept = float((after == before).double().mean())  # and a random token may be the one that stood there
    assert masked == pytest.approx(0.8, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.02)
    other = after[(after != before) & (after != task.model.mask)]
    assert set(other.tolist()) == set(range(VOCABULARY))
    assert not torch.equal(task.hide(batch)[1], rows_N)  # drawn anew
    pairs = batch.tokens.layout.positions[rows_N].view(-1, 2)  # ceil(0.25 * 8) = 2 of each text
    both = torch.bincount(pairs[:, 0] * 9 + pairs[:, 1], minlength=81)
    assert int((both > 0).sum()) == 28  # any pair


def test_evaluation_repeats_whatever_the_company() -> None:
    task = make()
    task.model.eval()
    batch = batch_of([30, 12, 5, 30])
    whole, rows_N = task.hide(batch)
    torch.rand(5)
    again, rows_again_N = task.hide(batch)
    assert torch.equal(whole.values, again.values)
    assert torch.equal(rows_N, rows_again_N)
    for order in ([2], [3, 1], [1, 0, 3]):
        part, _ = task.hide(batch.select(torch.tensor(order)))
        for i, text in zip(order, part.to_list(), strict=True):
            assert torch.equal(text, whole.to_list()[i])
    assert not torch.equal(whole.to_list()[0][1:], whole.to_list()[3][1:])
    other, _ = task.hide(Batch(batch.tokens, batch.targets, batch.ids + 7, batch.num_bytes))
    assert not torch.equal(other.values, whole.values)


def by_hand(task: MaskedLanguageModeling, batch: Batch) -> Tensor:
    """Text by text and place by place, with an embedding that has a row for the mask."""
    model, total = task.model, torch.zeros(())
    read, rows_N = task.hide(batch)
    embedded = torch.cat([model.encoder.embedding.weight, model.mask_vector[None]])[read.values]
    for text, vectors, offset in zip(
        batch.tokens.to_list(), read.with_values(embedded).to_list(), read.offsets.tolist(), strict=False
    ):
        if not len(text):
            continue
        hidden_LD = model.encoder(Ragged.from_list([vectors]))[0].values
        for place in (rows_N[(rows_N >= offset) & (rows_N < offset + len(text))] - offset).tolist():
            row = hidden_LD[place] if model.map is None else model.map(hidden_LD[place])
            total = total + nn.functional.cross_entropy(model.head.scores(row[None]), text[place : place + 1])
    return total


@pytest.mark.parametrize(("name", "tied"), [("recurrent", True), ("recurrent", False), ("transformer", True)])
def test_the_loss_is_that_of_each_hidden_token(name: str, tied: bool) -> None:
    task = make(name, tied)
    task.model.double().eval()
    batch = batch_of([20, 1, 0, 9])
    loss = task.step(batch).terms["loss"]
    expected = by_hand(task, batch)
    assert loss.count == 3 + 2
    assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-6)
    parameters = list(task.model.parameters())
    gradients = torch.autograd.grad(loss.sum, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(ours, theirs.to(ours), atol=1e-6)
    assert all(bool(gradient.any()) for gradient in gradients)  # that of the mask's vector among them


@pytest.mark.parametrize("name", ["recurrent", "transformer", "universal"])
def test_company_and_micro_batches_change_nothing(name: str) -> None:
    task = make(name)
    for how, (outputs, gradients) in differences(task, batch_of([20, 9, 4, 4, 1])).items():
        assert max(outputs, gradients) < 1e-9, how
    batch = batch_of([20, 9, 1])
    whole = evaluate(task, [batch])
    parts = evaluate(task, [batch_of([1], 2), batch.select(torch.tensor([1])), batch.select(torch.tensor([0]))])
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-6)
    assert task.step(batch).terms.keys() == task.counts(batch).keys()


def test_texts_without_a_token_to_hide() -> None:
    for lengths in ([], [0, 1, 0], [1]):
        for training in (True, False):
            task = make()
            task.model.train(training)
            output = task.step(batch_of(lengths))
            assert (output.terms["loss"].count, output.terms["loss"].sum.item()) == (0, 0.0)


def test_useful_flops_count_hidden_rows_only() -> None:
    task = make("recurrent")
    batch = batch_of([21, 21])
    encoder = task.model.encoder.flops(batch.tokens.lengths)
    assert task.flops(batch) == encoder + 6 * 6 * (6 * 12 + VOCABULARY * 6)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.causal=false"):
        MaskedLanguageModel(RecurrentEncoder(VOCABULARY, LSTMCell, width=4), VOCABULARY)
    for shares in ({"share": 0.0}, {"masked": 0.95}, {"random": -0.1}):
        with pytest.raises(ValueError, match="expected shares"):
            make(**shares)


@pytest.mark.parametrize("tokenizer", [Bytes(), Words(min_frequency=1)])
def test_marks_in_a_text_are_filled(tokenizer: Any) -> None:
    """A model is overfitted to one text, and asked for what is missing in it."""
    preprocessor = MaskedLanguageModelingPreprocessor()
    vocabularies = preprocessor.learn(pa.table({"text": ["the cat ran home"]}), tokenizer)
    torch.manual_seed(2)
    encoder = encoder_of("recurrent", len(vocabularies.tokenizer), 24)
    task = MaskedLanguageModeling(MaskedLanguageModel(encoder, len(vocabularies.tokenizer)), share=0.5)
    ids = torch.tensor([vocabularies.tokenizer.end, *vocabularies.tokenizer.encode(["the cat ran home"])[0]])
    tokens = Ragged.from_list([ids] * 8)
    batch = Batch(tokens, tokens, torch.arange(8), torch.ones(8, dtype=torch.int64))
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        term = task.step(batch).terms["loss"]
        (term.sum / term.count).backward()
        optimizer.step()
    words = isinstance(tokenizer, Words)
    missing = (
        ["the <mask> ran home", "<mask> cat ran <mask>"]
        if words
        else ["the c<mask>t ran home", "<mask>he cat ran hom<mask>"]
    )
    items = [{"text": text} for text in missing]
    answers = Predictor(Bundle(task, preprocessor, vocabularies)).predict(items)
    assert [answer["filled"] for answer in answers] == ["the cat ran home"] * 2
    assert [len(answer["masks"]) for answer in answers] == [1, 2]
    best = [[place[0]["token"] for place in answer["masks"]] for answer in answers]
    assert best == ([["cat"], ["the", "home"]] if words else [["a"], ["t", "e"]])
    for answer in answers:
        for place in answer["masks"]:
            shares = [one["probability"] for one in place]
            assert shares == sorted(shares, reverse=True)
            assert 0.3 < shares[0] <= sum(shares) <= 1 + 1e-6
    alone = Predictor(Bundle(task, preprocessor, vocabularies)).predict(items[1:])
    assert alone[0]["filled"] == answers[1]["filled"]
    with pytest.raises(ValueError, match=r"a text with <mask> in it, such as"):
        preprocessor.parse_input({"text": "the cat"})


def test_a_mark_in_the_data_is_text() -> None:
    preprocessor = MaskedLanguageModelingPreprocessor()
    vocabularies = preprocessor.learn(pa.table({"text": ["a"]}), Bytes())
    rows = preprocessor.tokenize(pa.table({"text": ["a<mask>"]}), vocabularies, None)  # type: ignore[arg-type]
    assert rows["length"].to_pylist() == [8]
    assert max(rows["tokens"].to_pylist()[0]) < len(vocabularies.tokenizer)
