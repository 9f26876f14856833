"""Where a model looks: weights are those of the equations, in the row of the token they chose, beside its text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
import seqlab
from seqlab.inference.attention import attends, attention_of, pieces, rounded
from seqlab.inference.predictor import Predictor, Request
from seqlab.layers.watch import watching
from seqlab.models.decoders import RecurrentDecoder
from seqlab.models.decoding import Decoding
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.seq2seq import Seq2Seq
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import BytePairs, Bytes, Words
from tiny_bundles import LSTM, TRANSFORMER, save

GRU = {**LSTM, "cell": {"_target_": "seqlab.layers.recurrent.cells.GRUCell", "_partial_": True}}
ENCODERS = {"lstm": {**LSTM, "layers": 2}, "gru": GRU, "transformer": {**TRANSFORMER, "layers": 2}}
GREEDY = Decoding(6)


@pytest.fixture(scope="module", params=ENCODERS)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    predictor = seqlab.load(save(tmp_path_factory.mktemp(request.param), "seq2seq", ENCODERS[request.param]))
    predictor.task.model.double()
    return predictor


def written(predictor: Predictor, item: dict[str, str]) -> tuple[Request, Hypothesis]:
    (asked,) = predictor.read([item])
    ((best,),) = predictor.task.predict(predictor.batch([asked]), GREEDY)
    return asked, best


def equations(model: Seq2Seq, source_L: Tensor, prefix_L: Tensor) -> Tensor:
    """[L, L'] of the last layer, the mean of its heads, by the tests' oracle."""
    encoder, decoder = model.encoder, model.decoder
    x, y = reference.embedding(encoder.embedding, source_L), reference.embedding(decoder.embedding, prefix_L)
    if isinstance(decoder, RecurrentDecoder):
        memory, ends = reference.recurrent_stack(encoder.stack, x)
        begin = [[(a + b) / 2 for a, b in zip(*both, strict=True)] for both in zip(ends[::2], ends[1::2], strict=True)]
        y, _ = reference.recurrent_stack(decoder.stack, y, begin)
        return torch.stack([(memory @ (decoder.attention.query.weight @ h)) / math.sqrt(16) for h in y]).softmax(1)
    memory = reference.transformer_stack(encoder.stack, x)
    *before, last = decoder.stack.blocks
    for block in before:
        y = reference.transformer_block(block, y, memory)
    y = y + reference.self_attention(last.attention, reference.norm(last.attention_norm, y))
    q, k = last.cross.query(reference.norm(last.cross_norm, y)), last.cross.key_value(memory)[:, :8]
    return torch.stack([(q[:, h] @ k[:, h].t() / 2).softmax(1) for h in (slice(4), slice(4, 8))]).mean(0)


@torch.no_grad()
def test_weights_are_those_of_the_equations(writer: Predictor) -> None:
    asked, best = written(writer, {"source": "a bc", "target_prefix": "A"})
    assert len(best.tokens) == 6
    assert not best.finished
    tokenizer = writer.vocabularies.tokenizer
    ((begun,),) = tokenizer.encode(["A"])
    for finished in (False, True):
        told = attention_of(writer, asked, Hypothesis(best.tokens, 0.0, finished))
        assert "".join(told["source"]) == "a bc<end>"
        assert "".join(told["target"]) == tokenizer.decode([begun, *best.tokens.tolist()]) + "<end>" * finished
        read = torch.tensor([tokenizer.end, begun, *best.tokens.tolist()])
        found = torch.tensor(told["weights"], dtype=torch.float64)
        right = equations(writer.task.model, torch.tensor(asked.row["tokens"][0].as_py()), read)
        assert found.shape == (len(told["target"]), len(told["source"])) == (7 + finished, 5)
        assert torch.allclose(found, right[: 7 + finished], atol=1e-9)
        assert torch.allclose(found.sum(1), torch.ones(7 + finished).double())
        assert not torch.allclose(found[1:], right[: 6 + finished], atol=1e-3)  # one row further is another one


def test_a_row_is_what_was_looked_at_when_its_token_was_chosen(writer: Predictor) -> None:
    (asked,) = writer.read([{"source": "ca b"}])
    with watching() as seen:
        ((best,),) = writer.task.predict(writer.batch([asked]), GREEDY)
    steps = [weights.mean(0) for layer, (weights,) in seen if layer is seen[-1].layer]
    assert len(steps) == len(best.tokens) == 6
    found = torch.tensor(attention_of(writer, asked, best)["weights"], dtype=torch.float64)
    assert torch.allclose(found, torch.cat(steps), atol=1e-9)


def test_nothing_written_and_nothing_read_have_their_weights(writer: Predictor) -> None:
    (asked,) = writer.read([{"source": ""}])
    nothing = torch.zeros(0, dtype=torch.int64)
    told = attention_of(writer, asked, Hypothesis(nothing, 0.0, True))
    assert told == {"source": ["<end>"], "target": ["<end>"], "weights": [[pytest.approx(1.0)]]}
    assert attention_of(writer, asked, Hypothesis(nothing, 0.0, False))["weights"] == []


@torch.no_grad()
@pytest.mark.parametrize("encoder", [LSTM, TRANSFORMER])
def test_a_classifier_tells_what_its_vector_is_made_of(encoder: dict[str, Any], tmp_path: Path) -> None:
    predictor = seqlab.load(save(tmp_path, "classification", encoder, pooling="attention"))
    model = predictor.task.model.double()
    nn.init.normal_(model.pooling.query)
    (asked,) = predictor.read([{"text": "a film", "pair": "é"}])
    told = attention_of(predictor, asked)
    assert told["source"] == ["<end>", *"a film", "<end>", "", "é"]
    hidden = model.encoder(predictor.batch([asked]).tokens)[0].values
    assert told["weights"] == [pytest.approx((hidden @ model.pooling.query).softmax(0).tolist(), abs=1e-9)]
    assert sum(told["weights"][0]) == pytest.approx(1)
    assert rounded(told)["weights"] == [[round(weight, 3) for weight in told["weights"][0]]]


def test_who_attends_is_known(bundles: dict[str, Path], tmp_path: Path) -> None:
    known = {name: attends(seqlab.load(bundles[name])) for name in bundles}
    assert {name for name in known if known[name]} == {"seq2seq", "seq2seq-transformer"}
    assert not attends(seqlab.load(save(tmp_path / "without", "seq2seq", attention=False)))
    assert attends(seqlab.load(save(tmp_path / "pooled", "classification", pooling="attention")))


TEXTS = ["the cat sat on the mat, the cat sat", "日本語 é 😀 a  b\n"]
TOKENIZERS = [Bytes().train(TEXTS), BytePairs(vocab_size=300).train(TEXTS), Words(min_frequency=1).train(TEXTS)]


@given(st.sampled_from(TOKENIZERS), st.lists(st.integers(0, 400), max_size=20))
def test_pieces_join_to_the_text(tokenizer: Tokenizer, numbers: Sequence[int]) -> None:
    ids = [number % len(tokenizer) for number in numbers]
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert [i for i, token in enumerate(ids) if token == tokenizer.end] == [
        i for i, piece in enumerate(found) if piece == "<end>" and ids[i] == tokenizer.end
    ]
    plain = [token for token in ids if token != tokenizer.end]
    assert "".join(pieces(tokenizer, plain)) == tokenizer.decode(plain)


def test_a_character_of_several_tokens_stands_whole() -> None:
    tokenizer = TOKENIZERS[0]
    (ids,) = tokenizer.encode(["a😀é"])
    assert pieces(tokenizer, ids) == ["a", "", "", "", "😀", "", "é"]
    assert pieces(TOKENIZERS[2], TOKENIZERS[2].encode(["the cat"])[0]) == ["the", " cat"]
