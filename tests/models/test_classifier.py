"""A classifier answers to a text in company as alone, whatever it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.layers.backend import backend
from seqlab.layers.heads import RegressionHead, SigmoidHead, SoftmaxHead
from seqlab.layers.pooling import PoolingKind
from seqlab.layers.positions import RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell
from seqlab.models.classifier import Classifier
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.ragged import Layout, Ragged

VOCABULARY, LABELS = 11, 4
POOLINGS = get_args(PoolingKind)
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "gru": lambda: RecurrentEncoder(VOCABULARY, GRUCell, width=8, layers=2, causal=False),
    "transformer": lambda: TransformerEncoder(VOCABULARY, RotaryPositions, width=8, layers=2, heads=2, causal=False),
    "universal": lambda: UniversalEncoder(VOCABULARY, RotaryPositions, width=8, heads=2, max_steps=4, causal=False),
}
HEADS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "one": (SoftmaxHead, {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 0.5, 1.0]}),
    "many": (SigmoidHead, {"class_weights": [1.0, 2.0, 0.5, 1.0]}),
    "number": (RegressionHead, {}),
}


def make(encoder: str, **options: Any) -> Classifier:
    torch.manual_seed(3)
    model = Classifier(ENCODERS[encoder](), LABELS, **{"answer": "one", **options}).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def batch_of(lengths: list[int], answer: str) -> tuple[Ragged, Ragged]:
    """Tokens and targets."""
    generator = torch.Generator().manual_seed(len(lengths))
    tokens = torch.randint(VOCABULARY, (sum(lengths),), generator=generator)
    counts = torch.randint(0, 3, (len(lengths),)) if answer == "many" else torch.ones(len(lengths), dtype=torch.int64)
    targets = torch.randint(LABELS, (int(counts.sum()),), generator=generator)
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    return Ragged(tokens, layout), Ragged(targets.float() if answer == "number" else targets, Layout(counts))


def losses(model: Classifier, tokens: Ragged, targets: Ragged) -> tuple[Tensor, Tensor]:
    """The head's loss and the sum of all costs."""
    pooled, costs = model.encode(tokens)
    loss = model.head.loss(pooled, targets.values, targets.lengths)
    return loss, sum(costs.values(), start=loss * 0)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("answer", HEADS)
@pytest.mark.parametrize("encoder", ENCODERS)
@settings(max_examples=4)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 4), st.just(17)), max_size=5), pooling=st.sampled_from(POOLINGS)
)  # fmt: skip
@example(lengths=[], pooling="attention")
@example(lengths=[0, 0], pooling="last")
@example(lengths=[1, 7, 7, 3, 0], pooling="last")
@example(lengths=[1, 7, 7, 3, 0], pooling="attention")
def test_a_batch_of_texts_equals_one_at_a_time(
    encoder: str, answer: str, path: str, lengths: list[int], pooling: PoolingKind
) -> None:
    kind, options = HEADS[answer]
    model = make(encoder, answer=answer, pooling=pooling, **options)
    assert isinstance(model.head, kind)
    model.head.train()  # with class weights and smoothing, and still without dropout
    tokens, targets = batch_of(lengths, answer)
    parameters = list(model.parameters())
    with backend(path):  # type: ignore[arg-type]
        pooled = model(tokens)
        together = losses(model, tokens, targets)
    singles = [(tokens.select([i]), targets.select([i])) for i in range(len(lengths))]
    alone = [losses(model, *single) for single in singles]
    assert pooled.shape[0] == len(lengths)
    for row, single in zip(pooled, singles, strict=True):
        assert torch.allclose(row, model(single[0])[0], atol=1e-11)
    for k in range(2):
        total = torch.stack([loss[k] for loss in alone]).sum() if alone else together[k] * 0
        assert torch.allclose(together[k], total, atol=1e-10)
        ours, theirs = (
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in (together[k], total)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-10)


def test_the_last_of_a_recurrence_both_ways_is_the_final_state_of_each() -> None:
    model = make("gru", pooling="last")
    tokens, _ = batch_of([5, 1, 3], "one")
    _, state = model.encoder(tokens)
    assert torch.allclose(model(tokens), torch.cat(state.tensors[-2:], 1), atol=1e-12)
    model = make("transformer", pooling="last")
    assert torch.equal(model(tokens), model.encoder.encode(tokens)[0].values[[4, 5, 8]])
    model = make("gru", pooling="first")
    assert torch.equal(model(tokens), model.encoder.encode(tokens)[0].values[[0, 5, 6]])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("answer", HEADS)
@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_autocast_stays_near(encoder: str, answer: str, pooling: PoolingKind) -> None:
    model = make(encoder, answer=answer, pooling=pooling, **HEADS[answer][1]).float()
    tokens, targets = batch_of([3, 0, 5, 1], answer)
    exact = losses(model, tokens, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = losses(model, tokens, targets)[0]
    narrow.backward()
    assert 0 < abs((narrow - exact).item()) < 0.05 * exact.item()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.head.parameters())


def test_features_of_the_pooled_vector_are_dropped_while_training() -> None:
    model = make("transformer", dropout=0.5)
    tokens, _ = batch_of([4] * 200, "one")
    whole = model(tokens)
    model.dropout.train()
    kept = model(tokens)
    assert float((kept == 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(kept[kept != 0], 2 * whole[kept != 0])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (None, {}, "answer=one needs labels"),
        (None, {"answer": "many"}, "answer=many needs labels"),
        (4, {"answer": "many", "label_smoothing": 0.1}, "label_smoothing=0.1 needs answer=one"),
        (None, {"answer": "number", "class_weights": [1.0]}, "class_weights need classes"),
        (4, {"class_weights": [1.0]}, "expected 4 numbers"),
    ],
)
def test_what_does_not_go_together_is_refused(labels: int | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(ENCODERS["gru"](), labels, **{"answer": "one", **options})
