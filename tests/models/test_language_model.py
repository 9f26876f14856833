"""Language models: states, steps and terms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from my_module import MyCell
from seqlab.data.batch import Batch
from seqlab.layers.positions import LearnedPositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.models.decoding import Decoding
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.state import State
from seqlab.ragged import Ragged
from seqlab.tasks.language_modeling import LanguageModeling
from seqlab.training.averages import Averages
from seqlab.training.objective import backward

VOCABULARY = 13
ENCODERS = {
    "lstm": lambda: RecurrentEncoder(VOCABULARY, LSTMCell, width=8, layers=2, dropout=0.5),
    "gru": lambda: RecurrentEncoder(VOCABULARY, GRUCell, width=8, residual=True),
    "mingru": lambda: RecurrentEncoder(VOCABULARY, MinGRUCell, width=8, layers=2),
    "minlstm, variational": lambda: RecurrentEncoder(VOCABULARY, MinLSTMCell, width=8, layers=2, variational=True),
    "own cell": lambda: RecurrentEncoder(VOCABULARY, MyCell, width=8),
    "rotary": lambda: TransformerEncoder(VOCABULARY, RotaryPositions, width=8, layers=2, heads=2, dropout=0.5),
    "learned": lambda: TransformerEncoder(VOCABULARY, LearnedPositions, width=8, layers=1, heads=2),
    "universal": lambda: UniversalEncoder(VOCABULARY, RotaryPositions, width=8, heads=2, max_steps=5, dropout=0.5),
    "universal, nothing halts": lambda: UniversalEncoder(VOCABULARY, RotaryPositions, 8, 2, 3, threshold=None),
}


def make(name: str) -> LanguageModel:
    torch.manual_seed(3)
    model = LanguageModel(ENCODERS[name](), VOCABULARY).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def prompts(*lengths: int) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    return Ragged.from_list([torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_prompt_and_steps_equal_the_whole(name: str) -> None:
    model, whole = make(name), prompts(6, 6, 6)
    expected, _ = model(whole)
    first = Ragged.from_list([tokens[:n] for tokens, n in zip(whole.to_list(), (2, 4, 3), strict=True)])
    hidden, state = model(first)
    rows = [list(part) for part in hidden.to_list()]
    for t in range(2):
        tokens = torch.stack([tokens[n + t] for tokens, n in zip(whole.to_list(), (2, 4, 3), strict=True)])
        hidden_BD, state = model.step(tokens, state)
        for row, new in zip(rows, hidden_BD, strict=True):
            row.append(new)
    for row, full in zip(rows, expected.to_list(), strict=True):
        assert torch.allclose(torch.stack(row), full[: len(row)], atol=1e-12)


@pytest.mark.parametrize("name", ENCODERS)
def test_states_select_and_join(name: str) -> None:
    model, batch = make(name), prompts(3, 1, 5)
    _, state = model(batch)
    chosen = State.cat([state.select(torch.tensor([2, 0])), state.select(torch.tensor([1, 1]))])
    tokens = torch.tensor([1, 2, 3, 4])
    hidden, _ = model.step(tokens, chosen)
    for row, i in enumerate((2, 0, 1, 1)):
        alone = Ragged.from_list([torch.cat([batch.to_list()[i], tokens[row : row + 1]])])
        assert torch.allclose(hidden[row], model(alone)[0].values[-1], atol=1e-12)


def test_a_language_model_must_be_causal() -> None:
    with pytest.raises(ValueError, match=r"model\.causal=true"):
        LanguageModel(RecurrentEncoder(VOCABULARY, GRUCell, width=4, causal=False), VOCABULARY)


def test_a_variational_encoder_drops_the_same_features_throughout_a_sequence_and_once_at_each_place() -> None:
    torch.manual_seed(0)
    encoder = RecurrentEncoder(VOCABULARY, GRUCell, width=32, dropout=0.5, variational=True)
    read: list[torch.Tensor] = []
    encoder.stack.layers[0][0].register_forward_pre_hook(lambda _, given: read.append(given[0]))
    tokens = prompts(6, 4)
    hidden, _ = encoder(tokens)
    dropped = []
    for part in hidden.to_list():
        dropped.append((part == 0).all(0))
        assert torch.equal(dropped[-1], (part == 0).any(0))
    assert not torch.equal(*dropped)
    for zeros in (hidden.values == 0, read[0] == 0):
        assert 0.3 < float(zeros.double().mean()) < 0.7  # dropping twice would leave a quarter
    assert torch.equal(encoder.eval()(tokens)[0].values, encoder(tokens)[0].values)


def batch_of(*lengths: int) -> Batch:
    tokens = prompts(*lengths)
    count = len(lengths)
    return Batch(tokens, tokens.map(lambda x: x.flip(0)), torch.arange(count), torch.full((count,), 7))


@pytest.mark.parametrize("name", ENCODERS)
def test_terms_are_sums_with_counts_known_before(name: str) -> None:
    model = make(name)
    task, batch = LanguageModeling(model, lossless=True, end=0, decoding=Decoding()), batch_of(3, 1, 5)
    output = task.step(batch)
    assert {name: term.count for name, term in output.terms.items()} == task.counts(batch)
    assert task.counts(batch) == {"loss": 9, "bits_per_byte": 21, **dict.fromkeys(model.costs, 9)}
    parts = [task.step(part) for part in batch.split(5)]
    assert len(parts) == 2
    for term in output.terms:
        whole, split = output.terms[term].sum.item(), sum(part.terms[term].sum.item() for part in parts)
        assert whole == pytest.approx(split, rel=1e-12)
    assert output.terms["bits_per_byte"].weight == 0
    metrics = task.metrics({"loss": math.log(2), "bits_per_byte": 1.0}, {})
    assert metrics == {"loss": math.log(2), "bits_per_byte": 1.0, "ppl": pytest.approx(2.0)}
    assert "bits_per_byte" not in LanguageModeling(model, lossless=False, end=0, decoding=Decoding()).counts(batch)


def universal(ponder_weight: float) -> LanguageModeling:
    """Of which different tokens halt in different rounds."""
    torch.manual_seed(3)
    encoder = UniversalEncoder(VOCABULARY, RotaryPositions, 8, 2, 6, threshold=0.9, ponder_weight=ponder_weight)
    nn.init.normal_(encoder.stack.halting.weight, std=1.5)
    return LanguageModeling(
        LanguageModel(encoder, VOCABULARY).double().eval(), lossless=False, end=0, decoding=Decoding()
    )


def gradient(task: LanguageModeling, batch: Batch, micro_tokens: int | None) -> tuple[Tensor, Averages]:
    averages = Averages()
    task.model.zero_grad()
    backward(task, batch, micro_tokens, averages)
    return torch.cat([p.grad.flatten() for p in task.model.parameters() if p.grad is not None]), averages


def test_the_ponder_cost_enters_training_exactly_for_any_split() -> None:
    batch = batch_of(9, 1, 5, 12, 3)
    task = universal(0.3)
    rounds, remainders = task.model.encoder.stack.ponder(
        task.model.encoder.embedding.core(batch.tokens.values, batch.tokens.lengths), batch.tokens.lengths, None, False
    )[1:3]
    assert len(rounds.unique()) > 2
    whole, averages = gradient(task, batch, None)
    assert averages.read()["ponder"] == pytest.approx(rounds.double().mean().item(), rel=1e-12)
    assert averages.read()["ponder_cost"] == pytest.approx((rounds + remainders).mean().item(), rel=1e-12)
    split, split_averages = gradient(task, batch, 13)
    assert torch.allclose(whole, split, atol=1e-13)
    assert split_averages.read() == pytest.approx(averages.read(), rel=1e-12)

    parameters = list(task.model.parameters())
    cost = task.model.encode(batch.tokens)[1]["ponder_cost"] / 30
    of_cost = torch.autograd.grad(cost, parameters, allow_unused=True, materialize_grads=True)
    without, _ = gradient(universal(0.0), batch, 13)
    assert torch.allclose(whole, without + 0.3 * torch.cat([part.flatten() for part in of_cost]), atol=1e-13)
    assert (whole - without).abs().max() > 1e-3
    assert universal(0.3).model.costs == {"ponder": 0.0, "ponder_cost": 0.3}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_training_reads_is_what_a_state_comes_with(name: str) -> None:
    model, batch = make(name), prompts(3, 0, 5)
    hidden, costs = model.encode(batch)
    assert torch.allclose(hidden.values, model(batch)[0].values, atol=1e-12)
    assert costs.keys() == model.costs.keys()


def test_a_negative_ponder_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="ponder_weight=-1"):
        universal(-1)
