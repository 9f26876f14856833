"""Decoding: continue ragged prompts, token by token, until each has ended.

A batch of running hypotheses narrows as they end, and prompts that wait take the places: all of a new prompt is read in
the same pass in which the others read their last token (Yu et al. 2022, section 3.2, call it iteration-level
scheduling). What is written for a prompt depends neither on when it joins nor on its company. `sampling.py` and
`beam.py` decide who goes on and how; here is the loop around the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from seqlab.models.beam import BeamSearch
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.sampling import Continuation, Sampling
from seqlab.ragged import Layout, Ragged


@dataclass(frozen=True)
class Decoding:
    """How to write. The defaults take the likeliest token each time (greedy).

    Args:
        max_tokens: the most tokens to write for a prompt; a model that knows no further positions writes fewer.
        temperature: divides the scores before a token is drawn; 0 draws none: greedy, or beam search.
        top_k: draw from the so many likeliest tokens only; None: from all.
        top_p: draw from the fewest likeliest tokens that have this probability together; None: from all.
        width: of the beam: how many hypotheses of a prompt are followed; 1: no beam search.
        length_penalty: the power of the length that a hypothesis's log-probability is divided by (`normalised`).
        n_best: how many hypotheses of the beam to give back for a prompt, best first.

    Raises:
        ValueError: with a line for every value out of its range or without effect.
    """

    max_tokens: int = 100
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    width: int = 1
    length_penalty: float = 1.0
    n_best: int = 1

    def __post_init__(self) -> None:
        filtered = self.top_k is not None or self.top_p is not None
        claims = (
            (self.max_tokens >= 1, f"max_tokens={self.max_tokens}: expected at least 1"),
            (self.temperature >= 0, f"temperature={self.temperature}: expected 0 (the likeliest token) or more"),
            (self.top_k is None or self.top_k >= 1, f"top_k={self.top_k}: expected at least 1, or null"),
            (self.top_p is None or 0 < self.top_p <= 1, f"top_p={self.top_p}: expected above 0 and up to 1, or null"),
            (self.width >= 1, f"width={self.width}: a beam holds at least 1 hypothesis"),
            (self.length_penalty >= 0, f"length_penalty={self.length_penalty}: expected 0 or more"),
            (
                1 <= self.n_best <= max(self.width, 1),
                f"n_best={self.n_best}: expected at least 1, and at most width={self.width}, that of the beam",
            ),
            (
                not filtered or self.temperature != 0,
                f"top_k={self.top_k}, top_p={self.top_p} say what to draw from, and temperature=0 draws nothing: "
                "set temperature=1, or leave them null",
            ),
            (
                self.width <= 1 or self.temperature <= 0,
                f"width={self.width} is a beam search, and temperature={self.temperature} draws tokens: "
                "set temperature=0 or width=1",
            ),
        )
        if wrong := [message for right, message in claims if not right]:
            raise ValueError("\n".join(wrong))


class ScoringHead(Protocol):
    def scores(self, hidden_TD: Tensor) -> Tensor:
        """[B, D] to [B, V], before the softmax."""


class Decodable(Protocol):
    """What decoding asks of a model: a `LanguageModel`, or one that also reads a source.

    A state has `select(indices)`, and `cat` of a list of states, as `State` does.
    """

    @property
    def head(self) -> ScoringHead: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def training(self) -> bool: ...
    def train(self, mode: bool = True) -> Any: ...
    def __call__(self, tokens: Ragged, state: Any = None) -> tuple[Ragged, Any]: ...
    def step(self, tokens_B: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Chooser(Protocol):
    """Who goes on, and how: of scores, a row for each that runs, the rows that go on, and the token each goes on by."""

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]: ...


class Search(Chooser, Protocol):
    """A chooser for prompts that are known before; `len` of them run."""

    def __len__(self) -> int: ...
    def join(self, prompts: Tensor) -> None: ...
    def results(self) -> list[list[Hypothesis]]: ...


@torch.no_grad()
def generate(
    model: Decodable,
    prompts: Ragged,
    end: int,
    decoding: Decoding = Decoding(),
    seeds: Sequence[int] | None = None,
    state: Any = None,
    at_once: int | None = None,
) -> list[list[Hypothesis]]:
    """What the model writes after each prompt: in the order of the prompts, the `n_best` of each, best first.

    Args:
        model: read in evaluation mode, whatever mode it is in.
        prompts: [T] int64; of any lengths, none empty. What a text must begin with belongs to its prompt.
        end: the token that ends a sequence.
        decoding: greedy, sampling or beam search, with their settings.
        seeds: one for each prompt, needed where tokens are drawn: a prompt's continuation depends on its own alone.
        state: what the model remembers of each prompt, such as its source, before it reads the prompt; None: nothing.
        at_once: the most rows, hypotheses of prompts that run, in a step; other prompts wait. At least one prompt runs.
            It bounds memory and changes nothing else. None: all prompts at once.

    Raises:
        ValueError: a prompt is empty or longer than the model knows positions, or there are not as many seeds as
            prompts.
        NonFiniteError: the model's scores are not numbers.
    """
    lengths, room = prompts.lengths, model.max_length
    if len(prompts) == 0:
        return []
    if int(lengths.min()) == 0:
        raise ValueError("a prompt needs at least one token; begin it with the start mark")
    if room is not None and prompts.layout.longest > room:
        raise ValueError(f"a prompt has {prompts.layout.longest} tokens, and this model knows {room} positions")
    drawing = decoding.temperature > 0
    if drawing and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"sampling needs one seed for each of the {len(prompts)} prompts, got {seeds}")
    limits = torch.full_like(lengths, decoding.max_tokens)
    if room is not None:  # the last token written need not be read
        limits = limits.minimum(room + 1 - lengths)
    search: Search
    if decoding.width > 1:
        search = BeamSearch(end, limits, decoding.width, decoding.length_penalty, decoding.n_best)
    else:
        how = (decoding.temperature, decoding.top_k, decoding.top_p, decoding.length_penalty)
        own = zip(limits.tolist(), seeds if seeds is not None and drawing else [None] * len(prompts), strict=True)
        search = Sampling(end, [Continuation(limit, seed, *how) for limit, seed in own])
    most = len(prompts) if at_once is None else max(1, at_once // decoding.width)
    training = model.training
    model.train(False)
    try:
        waiting = nothing_read(model, prompts) if state is None else state
        running = Running(model, search, prompts.device, waiting)
        queue = torch.argsort(prompts.lengths, stable=True)  # equal lengths side by side are read as one block
        while len(search) or len(queue):
            free = most - len(search)
            new, queue = queue[:free], queue[free:]
            if len(new):
                search.join(new)
                running.step(prompts.select(new), waiting.select(new))
            else:
                running.step()
    finally:
        model.train(training)
    return search.results()


def nothing_read(model: Decodable, prompts: Ragged) -> Any:
    """The state of a model that has read nothing yet, a row for each prompt."""
    return model(Ragged(prompts.values[:0], Layout(torch.zeros_like(prompts.lengths))))[1]


class Running:
    """Hypotheses that run side by side: in each step they all go on by a token, and prompts join that have waited.

    Args:
        model: in evaluation mode.
        chooser: whom a prompt has joined before it joins here.
        device: of the tokens that are read.
        state: any of the model's, none of whose rows will be used; None: as the first prompts bring it.
    """

    def __init__(self, model: Decodable, chooser: Chooser, device: torch.device, state: Any = None) -> None:
        self.model, self.chooser, self.device, self.state = model, chooser, device, state
        self.rows = self.tokens_B = torch.empty(0, dtype=torch.int64)  # who goes on, and by what

    def step(self, prompts: Ragged | None = None, states: Any = None) -> None:
        """One pass of the model: over the last token of those that run, and all tokens of the prompts that join.

        Args:
            prompts: have joined the search since the last step; None: nobody has.
            states: of the model, a row for each of these, before it reads them.
        """
        self.choose(*self.scores(prompts, states))

    def scores(self, prompts: Ragged | None = None, states: Any = None) -> tuple[Tensor, Any]:
        """The first half of a step, which changes nothing, so that after an error it may be tried again with others:
        the scores [B, V] of those that run and of the prompts behind them, and the state after what was read."""
        state = (states if self.state is None else self.state).select(self.rows)
        tokens_B = self.tokens_B.to(self.device)
        if prompts is not None:
            last = Ragged(tokens_B, Layout(torch.ones(len(self.rows), dtype=torch.int64)))
            read = Ragged.cat([last, prompts])
            hidden, state = self.model(read, type(state).cat([state, states]))
            hidden_BD = hidden.values[(read.offsets[1:] - 1).to(self.device)]
        else:
            hidden_BD, state = self.model.step(tokens_B, state)
        scores_BV = self.model.head.scores(hidden_BD)
        return scores_BV.to(torch.promote_types(scores_BV.dtype, torch.float32)), state

    def choose(self, scores_BV: Tensor, state: Any) -> None:
        """The second half: who goes on, and by what. The prompts have joined the chooser by now."""
        self.rows, self.tokens_B = self.chooser.advance(scores_BV)
        self.state = state
