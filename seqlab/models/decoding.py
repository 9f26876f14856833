"""Decoding: continue ragged prompts, token by token, until each sequence has ended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Ragged,
    end: int,
    max_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[Tensor]:
    """What the model writes after each prompt, [L_i] each, without the end mark.

    A sequence that has written `end` leaves the batch, which narrows. Every sequence draws from its own generator, so
    that what is written for a prompt does not depend on its company.

    Args:
        model: read in evaluation mode, whatever mode it is in.
        prompts: [T] int64; of any lengths, none empty.
        end: the token that ends a sequence.
        max_tokens: the most to write for each; a model that knows no further positions ends sooner.
        temperature: divides the scores before sampling; 0 takes the likeliest token (greedy).
        seeds: one for each prompt, needed unless greedy.

    Raises:
        ValueError: a prompt is empty, the temperature is negative, or there are not as many seeds as prompts.
    """
    if len(prompts) and int(prompts.lengths.min()) == 0:
        raise ValueError("a prompt needs at least one token; begin it with the start mark")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    room = model.max_length
    if room is not None and len(prompts) and prompts.layout.longest > room:
        raise ValueError(f"a prompt has {prompts.layout.longest} tokens, and this model knows {room} positions")
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"sampling needs one seed for each of the {len(prompts)} prompts, got {seeds}")
    written: list[list[int]] = [[] for _ in range(len(prompts))]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or ()]
    training = model.training
    model.eval()
    try:
        running = torch.argsort(prompts.lengths, stable=True)  # equal lengths side by side are read as one block
        sorted_prompts = prompts.select(running)
        hidden, state = model(sorted_prompts)
        hidden_BD = hidden.values[(sorted_prompts.offsets[1:] - 1).to(prompts.device)]
        for _ in range(max_tokens):
            if not len(running):
                break
            scores_BV = model.head.scores(hidden_BD)
            if temperature == 0:
                tokens_B = scores_BV.argmax(1)
            else:
                draws_B1 = torch.stack([torch.rand(1, generator=generators[i]) for i in running.tolist()])
                tokens_B = sample(scores_BV / temperature, draws_B1.to(scores_BV.device))
            goes_on = (tokens_B != end).nonzero().flatten()
            for i, token in zip(running.tolist(), tokens_B.tolist(), strict=True):
                if token != end:
                    written[i].append(token)
            if room is not None:
                lengths_B = prompts.lengths[running] + torch.tensor([len(written[i]) for i in running.tolist()])
                goes_on = goes_on[(lengths_B <= room)[goes_on.cpu()].to(goes_on.device)]
            running = running[goes_on.cpu()]
            tokens_B = tokens_B[goes_on]
            hidden_BD, state = model.step(tokens_B, state.select(goes_on))
    finally:
        model.train(training)
    return [torch.tensor(tokens, dtype=torch.int64) for tokens in written]


def sample(scores_BV: Tensor, draws_B1: Tensor) -> Tensor:
    """[B] tokens drawn from softmax(scores) by inverting its cumulative sum at uniform draws in [0, 1)."""
    cumulative_BV = scores_BV.double().softmax(1).cumsum(1)
    drawn_B1 = torch.searchsorted(cumulative_BV, draws_B1.double() * cumulative_BV[:, -1:], right=True)
    return drawn_B1.squeeze(1).clamp(max=scores_BV.shape[1] - 1)
