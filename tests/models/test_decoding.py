"""Decoding: greedy, sampling and beam search equal loops that read one prompt alone and everything anew each step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.errors import NonFiniteError
from seqlab.layers.positions import LearnedPositions, RelativePositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell
from seqlab.layers.recurrent.minimal import MinGRUCell
from seqlab.models.beam import BeamSearch
from seqlab.models.decoding import Decoding, generate
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.language_model import LanguageModel
from seqlab.models.sampling import Continuation, Sampling, sample
from seqlab.models.seq2seq import Seq2Seq
from seqlab.ragged import Layout, Ragged

VOCABULARY, END = 7, 0
ENCODERS = {
    "lstm": lambda v: RecurrentEncoder(v, LSTMCell, width=8, layers=2, dropout=0.5),
    "gru": lambda v: RecurrentEncoder(v, GRUCell, width=8),
    "mingru": lambda v: RecurrentEncoder(v, MinGRUCell, width=8, layers=2),
    "rotary": lambda v: TransformerEncoder(v, RotaryPositions, width=16, layers=2, heads=2, dropout=0.5),
    "window": lambda v: TransformerEncoder(v, RotaryPositions, width=16, layers=2, heads=2, kv_heads=1, window=3),
    "relative": lambda v: TransformerEncoder(v, RelativePositions, width=8, layers=2, heads=2),
    "universal": lambda v: UniversalEncoder(v, RotaryPositions, width=8, heads=2, max_steps=3),
}


def make(name: str, vocabulary: int = VOCABULARY, seed: int = 3) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(ENCODERS[name](vocabulary), vocabulary).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model.eval()


MODELS = {name: make(name) for name in ENCODERS}
every_model = pytest.mark.parametrize("name", ENCODERS)
lengths_drawn = st.lists(st.integers(1, 5) | st.just(17), min_size=1, max_size=6)


def prompts_of(lengths: list[int], vocabulary: int = VOCABULARY) -> Ragged:
    layout = Layout(torch.tensor(lengths))
    generators = [torch.Generator().manual_seed(2 * n + i % 2) for i, n in enumerate(lengths)]
    parts = [torch.randint(vocabulary, (n,), generator=g) for n, g in zip(lengths, generators, strict=True)]
    return Ragged(torch.cat([torch.empty(0, dtype=torch.int64), *parts]), layout)


# -------------------------------------------------- the obvious loops: one prompt, no state, no early stop, plain lists

Plain = tuple[list[int], float, bool]  # tokens, score, finished


@cache
@torch.no_grad()
def read(model: Any, tokens: tuple[int, ...]) -> Tensor:
    hidden, _ = model(Ragged.from_list([torch.tensor(tokens)]))
    return model.head.scores(hidden.values[-1:])[0].log_softmax(0)


def next_log_p(model: Any, prompt: Tensor, written: list[int]) -> Tensor:
    return read(model, (*prompt.tolist(), *written))


def write(model: Any, prompt: Tensor, asked: Decoding, limit: int, draws: Tensor | None = None) -> Plain:
    written: list[int] = []
    log_p = 0.0
    for step in range(limit):
        next_V = next_log_p(model, prompt, written)
        token = int(next_V.argmax()) if draws is None else inverse_cdf(next_V, float(draws[step]), asked)
        log_p += float(next_V[token])
        if token == END:
            return written, log_p / (step + 1) ** asked.length_penalty, True
        written.append(token)
    return written, log_p / limit**asked.length_penalty, False


def inverse_cdf(log_p_V: Tensor, draw: float, asked: Decoding) -> int:
    filtered = asked.top_k is not None or asked.top_p is not None
    order = sorted(range(len(log_p_V)), key=lambda v: -log_p_V[v]) if filtered else list(range(len(log_p_V)))
    order = order[: asked.top_k]
    weights = [math.exp(log_p_V[v] / asked.temperature) for v in order]
    weights = [weight / sum(weights) for weight in weights]
    if asked.top_p is not None:
        kept = next(n for n in range(1, len(order) + 1) if n == len(order) or sum(weights[:n]) >= asked.top_p)
        order, weights = order[:kept], weights[:kept]
    rest = draw * sum(weights)
    for v, weight in zip(order, weights, strict=True):
        rest -= weight
        if rest < 0:
            return v
    return order[-1]


def search(model: Any, prompt: Tensor, asked: Decoding, limit: int) -> list[Plain]:
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    found: list[Plain] = []
    for length in range(1, limit + 1):
        candidates = []
        for log_p, written in live:
            next_V = next_log_p(model, prompt, written)
            candidates += [(log_p + float(next_V[token]), [*written, token]) for token in range(len(next_V))]
        candidates.sort(key=lambda one: -one[0])
        for log_p, written in candidates[: asked.width]:
            if written[-1] == END:
                found.append((written[:-1], log_p / length**asked.length_penalty, True))
        live = [one for one in candidates if one[1][-1] != END][: asked.width]
    found += [(written, log_p / limit**asked.length_penalty, False) for log_p, written in live]
    return sorted(found, key=lambda one: -one[1])[: asked.n_best]


def plainly(hypotheses: list[Hypothesis]) -> list[Plain]:
    return [(one.tokens.tolist(), one.score, one.finished) for one in hypotheses]


def agree(got: list[list[Hypothesis]], expected: list[list[Plain]]) -> None:
    assert len(got) == len(expected)
    for mine, yours in zip(map(plainly, got), expected, strict=True):
        assert [(tokens, finished) for tokens, _, finished in mine] == [(a, c) for a, _, c in yours]
        assert [score for _, score, _ in mine] == pytest.approx([score for _, score, _ in yours], rel=1e-9)


def draws_of(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------ agreement


@every_model
@given(lengths=lengths_drawn, limit=st.integers(1, 12), at_once=st.integers(1, 5) | st.none())
def test_greedy_is_the_obvious_loop(name: str, lengths: list[int], limit: int, at_once: int | None) -> None:
    model, prompts, asked = MODELS[name], prompts_of(lengths), Decoding(max_tokens=limit)
    expected = [[write(model, prompt, asked, limit)] for prompt in prompts.to_list()]
    agree(generate(model, prompts, END, asked, at_once=at_once), expected)


@every_model
@given(
    lengths=lengths_drawn,
    limit=st.integers(1, 12),
    at_once=st.integers(1, 5) | st.none(),
    top_k=st.none() | st.integers(1, VOCABULARY + 1),
    top_p=st.none() | st.floats(0.05, 1),
)
def test_sampling_is_the_obvious_loop(
    name: str, lengths: list[int], limit: int, at_once: int | None, top_k: int | None, top_p: float | None
) -> None:
    model, prompts = MODELS[name], prompts_of(lengths)
    asked = Decoding(limit, temperature=1.7, top_k=top_k, top_p=top_p, length_penalty=0.5)
    seeds = [11 * i for i in range(len(lengths))]
    expected = [
        [write(model, prompt, asked, limit, draws_of(seed, limit))]
        for prompt, seed in zip(prompts.to_list(), seeds, strict=True)
    ]
    agree(generate(model, prompts, END, asked, seeds, at_once=at_once), expected)


@every_model
@given(
    lengths=lengths_drawn,
    limit=st.integers(1, 9),
    at_once=st.integers(1, 20) | st.none(),
    width=st.integers(2, 9),
    n_best=st.integers(1, 9),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
)
@example(lengths=[2, 1], limit=40, at_once=3, width=3, n_best=3, length_penalty=4.0)  # long ones win
def test_beam_search_is_the_obvious_loop(
    name: str, lengths: list[int], limit: int, at_once: int | None, width: int, n_best: int, length_penalty: float
) -> None:
    model, prompts = MODELS[name], prompts_of(lengths)
    asked = Decoding(limit, width=width, n_best=min(n_best, width), length_penalty=length_penalty)
    expected = [search(model, prompt, asked, limit) for prompt in prompts.to_list()]
    agree(generate(model, prompts, END, asked, at_once=at_once), expected)


class OfSource:
    """A sequence-to-sequence model that has read one source, as the obvious loops want a model."""

    def __init__(self, model: Seq2Seq, source: Tensor) -> None:
        self.model, self.source, self.head = model, Ragged.from_list([source]), model.head

    def __call__(self, tokens: Ragged) -> tuple[Ragged, object]:
        return self.model(tokens, self.model.remember(self.source))


@pytest.mark.parametrize("name", ["lstm", "gru", "mingru", "rotary"])
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=5),
    width=st.integers(1, 4),
    at_once=st.none() | st.integers(1, 9),
)
@settings(max_examples=10)
def test_a_target_is_written_for_its_source_alone(
    name: str, pairs: list[tuple[int, int]], width: int, at_once: int | None
) -> None:
    torch.manual_seed(3)
    model = Seq2Seq(ENCODERS[name](VOCABULARY), VOCABULARY, VOCABULARY).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    sources, prompts = (Ragged.from_list([torch.randint(7, (n,)) for n in side]) for side in zip(*pairs, strict=True))
    asked = Decoding(6, width=width, n_best=width)
    expected = []
    for source, prompt in zip(sources.to_list(), prompts.to_list(), strict=True):
        alone = OfSource(model, source)
        expected.append(search(alone, prompt, asked, 6) if width > 1 else [write(alone, prompt, asked, 6)])
    agree(generate(model, prompts, END, asked, state=model.remember(sources), at_once=at_once), expected)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("name", ["lstm", "gru", "mingru", "rotary"])
def test_a_beam_wide_enough_finds_the_best_of_all_sequences(name: str, length_penalty: float) -> None:
    vocabulary, limit = 3, 4
    model, prompts = make(name, vocabulary), prompts_of([2, 5], vocabulary)
    asked = Decoding(limit, width=vocabulary**limit, n_best=9, length_penalty=length_penalty)
    expected = []
    for prompt in prompts.to_list():
        everything: list[Plain] = []
        for length in range(limit + 1):  # all tokens that are no end, then the end if there is room
            for written in itertools.product(range(1, vocabulary), repeat=length):
                closed = [*written, END][:limit]
                log_p = sum(float(next_log_p(model, prompt, closed[:i])[token]) for i, token in enumerate(closed))
                everything.append((list(written), log_p / len(closed) ** length_penalty, length < limit))
        expected.append(sorted(everything, key=lambda one: -one[1])[:9])
    agree(generate(model, prompts, END, asked), expected)


def test_a_search_stops_when_nothing_can_change_any_more_and_not_before() -> None:
    """Two live hypotheses with log-probabilities given by hand: whether a third step is taken, at a limit of 4."""

    def steps(first: float, length_penalty: float, n_best: int = 1) -> int:
        """P(end) = `first`, the rest for token 1; then always P(1) = 0.9."""
        beam = BeamSearch(END, torch.tensor([4]), width=2, length_penalty=length_penalty, n_best=n_best)
        beam.join(torch.tensor([0]))
        taken = 0
        while len(beam):
            p = [first, 1 - first, 0] if taken == 0 else [0.05, 0.9, 0.05]
            rows = int(beam.widths.sum())
            beam.advance(torch.tensor([p], dtype=torch.float64).log().expand(rows, -1))
            taken += 1
        return taken

    assert steps(0.6, 0.0) == 1  # 0.4 is less, however it goes on
    assert steps(0.4, 0.0) == 4  # 0.6 x 0.9 is more, and stays more than 0.4 until it is 0.6 x 0.9 ** 3
    assert steps(0.5, 1.0) == 4  # log 0.5 / 1 is less than log(0.5 x 0.9 ** 3) / 4
    assert steps(0.9, 1.0) == 1  # log 0.9 / 1 is more than log 0.1 / 4
    assert steps(0.6, 0.0, n_best=2) > 1  # the second best is still to be found


def test_fewer_hypotheses_than_asked_for_where_there_are_no_more() -> None:
    model, prompts = make("gru", 3), prompts_of([2], 3)
    (found,) = generate(model, prompts, END, Decoding(max_tokens=1, width=9, n_best=9))
    assert sorted((one.tokens.tolist(), one.finished) for one in found) == [([], True), ([1], False), ([2], False)]
    assert sum(math.exp(one.score) for one in found) == pytest.approx(1)


def test_tokens_without_probability_are_never_written() -> None:
    beam = BeamSearch(END, torch.tensor([2]), width=4, n_best=4)
    beam.join(torch.tensor([0]))
    never = torch.tensor([[-math.inf, 1.0, -math.inf]], dtype=torch.float64)
    rows, tokens = beam.advance(never)
    assert (rows.tolist(), tokens.tolist()) == ([0], [1])
    beam.advance(never)
    assert [plainly(found) for found in beam.results()] == [[([1, 1], 0.0, False)]]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(
    "search",
    [
        lambda limits: BeamSearch(END, limits, width=4),
        lambda limits: Sampling(END, [Continuation(limit) for limit in limits.tolist()]),
        lambda limits: Sampling(END, [Continuation(limit, 1, top_p=0.5) for limit in limits.tolist()]),
    ],
)
def test_scores_that_are_no_numbers_are_told(search: Callable[[Tensor], Any], value: float) -> None:
    found = search(torch.tensor([2, 2]))
    found.join(torch.tensor([0, 1]))
    scores = torch.zeros(2, 3)
    scores[1] = value
    with pytest.raises(NonFiniteError, match="not numbers"):
        found.advance(scores)


# ------------------------------------------------------------------------------------------------------- what is around


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0}, {"width": 3}])
def test_a_model_ends_where_it_knows_no_further_positions(asked: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(5, lambda **sizes: LearnedPositions(max_length=8, **sizes), 8, 1, 2)
    model, prompts = LanguageModel(encoder, 5).double().eval(), prompts_of([8, 3, 7], 5)
    seeds = [1, 2, 3] if "temperature" in asked else None
    found = generate(model, prompts, -1, Decoding(max_tokens=4, **asked), seeds, at_once=4)
    assert [len(best.tokens) for best, *_ in found] == [1, 4, 2]  # the last one written is not read
    assert not any(best.finished for best, *_ in found)
    with pytest.raises(ValueError, match="a prompt has 9 tokens, and this model knows 8 positions"):
        generate(model, prompts_of([9], 5), END)


def test_a_longer_limit_changes_nothing_before_it() -> None:
    model, prompts = MODELS["gru"], prompts_of([3, 1])
    short, long = (generate(model, prompts, -1, Decoding(max_tokens=n, temperature=2.0), seeds=[5, 6]) for n in (5, 40))
    for (a,), (b,) in zip(short, long, strict=True):
        assert a.tokens.tolist() == b.tokens[:5].tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_a_state_that_is_given_is_continued(width: int) -> None:
    """As a model with a source does: its state comes first, prompts are read behind it."""
    asked = Decoding(max_tokens=6, width=width, n_best=width)
    for name in ("lstm", "rotary"):
        model, whole = MODELS[name], prompts_of([6, 3, 9, 4])
        before = Ragged.from_list([tokens[:-2] for tokens in whole.to_list()])
        rest = Ragged.from_list([tokens[-2:] for tokens in whole.to_list()])
        _, state = model(before)
        expected = generate(model, whole, END, asked)
        for at_once in (None, 2 * width):
            agree(generate(model, rest, END, asked, state=state, at_once=at_once), list(map(plainly, expected)))


def test_generation_leaves_the_model_and_the_global_generator_as_they_were() -> None:
    model = make("lstm").train()
    before = torch.get_rng_state()
    generate(model, prompts_of([2, 3]), END, Decoding(max_tokens=4, temperature=1.0), seeds=[1, 2])
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, prompts_of([2, 0]), END)
    with pytest.raises(ValueError, match="one seed for each of the 2"):
        generate(model, prompts_of([2, 2]), END, Decoding(temperature=1.0), seeds=[1])
    assert model.training
    assert generate(model, prompts_of([]), END) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens": 0}, "max_tokens=0: expected at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0: expected 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k=0: expected at least 1"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0: expected above 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p=1.5: expected above 0 and up to 1"),
        ({"top_p": 0.9}, "set temperature=1, or leave them null"),
        ({"width": 0}, "width=0: a beam holds at least 1"),
        ({"width": 4, "temperature": 0.5}, "set temperature=0 or width=1"),
        ({"width": 2, "n_best": 3}, "n_best=3: expected at least 1, and at most width=2, that of the beam"),
        ({"length_penalty": -0.5}, "length_penalty=-0.5: expected 0 or more"),
        ({"max_tokens": -3, "n_best": 0}, "max_tokens=-3.*\n.*n_best=0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoding(**settings)


# ------------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, None, [0.1, 0.4, 0.0, 0.2, 0.3]),
        (None, 1.0, [0.1, 0.4, 0.0, 0.2, 0.3]),
        (2, None, [0, 4 / 7, 0, 0, 3 / 7]),
        (9, None, [0.1, 0.4, 0.0, 0.2, 0.3]),
        (None, 0.39, [0, 1, 0, 0, 0]),
        (None, 0.41, [0, 4 / 7, 0, 0, 3 / 7]),
        (None, 0.71, [0, 4 / 9, 0, 2 / 9, 3 / 9]),
        (None, 1e-9, [0, 1, 0, 0, 0]),
        (3, 0.77, [0, 4 / 7, 0, 0, 3 / 7]),  # of 4/9, 3/9 and 2/9 the first two are 0.778
        (3, 0.78, [0, 4 / 9, 0, 2 / 9, 3 / 9]),
    ],
)
def test_each_token_is_drawn_by_its_share_of_the_draws(
    top_k: int | None, top_p: float | None, expected: list[float]
) -> None:
    """Draws on a fine grid: the shares are the probabilities, to the width of the grid."""
    scores = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3], dtype=torch.float64).log() * 3
    draws = torch.arange(10_000, dtype=torch.float64) / 10_000
    drawn = sample(scores.expand(10_000, 5), draws, 3.0, top_k, top_p)
    shares = torch.bincount(drawn, minlength=5) / 10_000
    assert torch.allclose(shares, torch.tensor(expected, dtype=shares.dtype), atol=1.01e-4)
    assert [v for v in range(5) if not expected[v] and shares[v]] == []
    last = torch.tensor([1.0], dtype=torch.float64)  # one more than can be drawn: still a token that may be
    assert expected[int(sample(scores.unsqueeze(0), last, 3.0, top_k, top_p))] > 0


SETTINGS = [{}, {"seed": 3}, {"seed": 5, "temperature": 0.5, "top_k": 3}, {"seed": 7, "top_p": 0.6}, {"seed": 9}]


@given(data=st.data())
def test_continuations_with_own_settings_come_and_go(data: st.DataObject) -> None:
    """Scores are given by hand for each prompt and step; in company each prompt gets what it gets alone."""
    count = data.draw(st.integers(1, 7))
    scores = torch.randn(count, 6, VOCABULARY, generator=torch.Generator().manual_seed(count)) * 3
    limits = [data.draw(st.integers(1, 6)) for _ in range(count)]
    settings = [data.draw(st.sampled_from(SETTINGS)) for _ in range(count)]
    begins = [data.draw(st.integers(0, 5)) for _ in range(count)]
    abandoned = [data.draw(st.none() | st.integers(1, 5)) for _ in range(count)]

    def make(prompt: int) -> Continuation:
        return Continuation(limits[prompt], **settings[prompt])

    expected = [make(prompt) for prompt in range(count)]
    for prompt, one in enumerate(expected):
        alone = Sampling(END, [one])
        alone.join(torch.tensor([0]))
        while len(alone) and len(one.tokens) != abandoned[prompt]:
            alone.advance(scores[prompt, len(one.tokens)].unsqueeze(0))

    together = [make(prompt) for prompt in range(count)]
    sampling = Sampling[Continuation](END)
    for step in range(12):
        sampling.rows += [one for one, begin in zip(together, begins, strict=True) if begin == step]
        leaving = [n for n, one in enumerate(together) if len(one.tokens) == abandoned[n]]
        sampling.rows = [one for one in sampling.rows if together.index(one) not in leaving]
        before = sampling.rows
        read = [scores[together.index(one), len(one.tokens)] for one in before]
        rows, tokens = sampling.advance(torch.stack(read) if read else scores.new_empty(0, VOCABULARY))
        assert [before[row] for row in rows.tolist()] == sampling.rows
        assert tokens.tolist() == [one.tokens[-1] for one in sampling.rows]
    assert len(sampling) == 0
    for one, other in zip(together, expected, strict=True):
        assert one.tokens == other.tokens
        assert (one.log_probability, one.finished) == (other.log_probability, other.finished)


def test_who_has_no_probable_token_leaves_alone() -> None:
    failed: list[Continuation] = []
    continuations = [Continuation(3, seed) for seed in (None, 1, 2)]
    sampling = Sampling(END, continuations, failed.extend)
    sampling.join(torch.arange(3))
    scores = torch.zeros(3, VOCABULARY).index_fill(1, torch.tensor([END]), -math.inf)
    scores[1] = math.nan
    rows, _ = sampling.advance(scores)
    assert rows.tolist() == [0, 2]
    assert failed == [continuations[1]]
    assert sampling.rows == [continuations[0], continuations[2]]
    assert [len(one.tokens) for one in continuations] == [1, 0, 1]


def test_written_tokens_follow_the_distribution() -> None:
    """Chi-square over first tokens of many seeds: below its 99.9 % quantile for 6 degrees of freedom."""
    model, prompt = MODELS["gru"], prompts_of([3])
    many = prompt.select(torch.zeros(4000, dtype=torch.int64))
    found = generate(model, many, -1, Decoding(max_tokens=1, temperature=2.0), seeds=range(4000))
    counts = torch.bincount(torch.cat([best.tokens for best, *_ in found]), minlength=VOCABULARY)
    expected = 4000 * (next_log_p(model, prompt.values, []) / 2).softmax(0)
    assert float(((counts - expected) ** 2 / expected).sum()) < 22.46
