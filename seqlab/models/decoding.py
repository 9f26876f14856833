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
from seqlab.models.sampling import Sampling
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
                f"n_best={self.n_best}: expected at least 1, and at most width={self.width}",
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


class Head(Protocol):
    def scores(self, hidden_TD: Tensor) -> Tensor:
        """[B, D] to [B, V], before the softmax."""


class Decodable(Protocol):
    """What decoding asks of a model: a `LanguageModel`, or one that also reads a source.

    A state has `select(indices)`, and `cat` of a list of states, as `State` does.
    """

    @property
    def head(self) -> Head: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def training(self) -> bool: ...
    def train(self, mode: bool = True) -> Any: ...
    def __call__(self, tokens: Ragged, state: Any = None) -> tuple[Ragged, Any]: ...
    def step(self, tokens_B: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Search(Protocol):
    """Who goes on, and how. Rows of the batch belong to prompts that run, `len` of them."""

    def __len__(self) -> int: ...
    def join(self, prompts: Tensor) -> None: ...
    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]: ...
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
        search = Sampling(end, limits, seeds if drawing else None, *how)
    running = len(prompts) if at_once is None else max(1, at_once // decoding.width)
    training = model.training
    model.train(False)
    try:
        _search(model, prompts, search, running, state)
    finally:
        model.train(training)
    return search.results()


def _search(model: Decodable, prompts: Ragged, search: Search, most: int, waiting: Any) -> None:
    """The loop; `most` prompts run, `waiting` is the state of all before they are read."""
    if waiting is None:
        nothing = Ragged(prompts.values[:0], Layout(torch.zeros_like(prompts.lengths)))
        _, waiting = model(nothing)
    queue = torch.argsort(prompts.lengths, stable=True)  # equal lengths side by side are read as one block
    rows, tokens_B = queue[:0], queue[:0]
    state = waiting
    while len(search) or len(queue):
        state, tokens_B = state.select(rows), tokens_B.to(prompts.device)
        free = most - len(search)
        new, queue = queue[:free], queue[free:]
        if len(new):
            search.join(new)
            last = Ragged(tokens_B, Layout(torch.ones(len(rows), dtype=torch.int64)))
            read = Ragged.cat([last, prompts.select(new)])
            hidden, state = model(read, type(state).cat([state, waiting.select(new)]))
            hidden_BD = hidden.values[(read.offsets[1:] - 1).to(prompts.device)]
        else:
            hidden_BD, state = model.step(tokens_B, state)
        scores_BV = model.head.scores(hidden_BD)
        rows, tokens_B = search.advance(scores_BV.to(torch.promote_types(scores_BV.dtype, torch.float32)))
