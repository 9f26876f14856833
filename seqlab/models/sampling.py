"""One continuation of each prompt: its tokens drawn one by one, or always the likeliest (greedy)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqlab.models.hypothesis import Hypothesis, normalised, require_probable


class Sampling:
    """Prompts are rows of the batch, one each, which leaves as it ends.

    Every prompt draws from a generator of its own, so that what is written does not depend on its company.

    Args:
        end: the token that ends a sequence.
        limits: [N] int64, the most tokens to write for each prompt.
        seeds: one for each prompt; None: greedy.
        temperature, top_k, top_p: see `sample`.
        length_penalty: of the scores of the hypotheses.
    """

    def __init__(
        self,
        end: int,
        limits: Tensor,
        seeds: Sequence[int] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        length_penalty: float = 1.0,
    ) -> None:
        self.end = end
        self.limits = limits
        self.seeds = seeds
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.length_penalty = length_penalty
        self.running = torch.empty(0, dtype=torch.int64)  # the prompt of each row
        self.drawn = torch.empty(0, int(limits.max()) if len(limits) else 0, dtype=torch.float64)  # [B', limit]
        self.draws = self.running  # of each row, which of these are its draws
        self.steps: list[tuple[Tensor, Tensor]] = []  # of each: prompts and the tokens they got
        self.counts = torch.zeros_like(limits)
        self.log_probabilities = torch.zeros(len(limits), dtype=torch.float64)
        self.finished = torch.zeros(len(limits), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.running)

    def join(self, prompts: Tensor) -> None:
        """These begin, in rows behind those that run."""
        self.running = torch.cat([self.running, prompts])
        if self.seeds is not None:
            drawn = self.drawn.new_empty(len(prompts), self.drawn.shape[1])
            for row, prompt in zip(drawn, prompts.tolist(), strict=True):
                torch.rand(row.shape, out=row, generator=torch.Generator().manual_seed(self.seeds[prompt]))
            self.drawn = torch.cat([self.drawn[self.draws], drawn])
            self.draws = torch.arange(len(self.running))

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that go on, and the token [B'] each goes on by, both on the CPU."""
        norms_B = scores_BV.logsumexp(1)
        require_probable(bool(norms_B.isfinite().all()))
        if self.seeds is None:
            tokens_B = scores_BV.argmax(1)
        else:
            draws_B = self.drawn[self.draws, self.counts[self.running]].to(scores_BV.device)
            tokens_B = sample(scores_BV, draws_B, self.temperature, self.top_k, self.top_p)
        chosen_B = scores_BV.gather(1, tokens_B.unsqueeze(1)).squeeze(1)
        tokens_B, log_p_B = tokens_B.cpu(), (chosen_B - norms_B).cpu()
        self.steps.append((self.running, tokens_B))
        self.counts[self.running] += 1
        self.log_probabilities[self.running] += log_p_B
        ends = tokens_B == self.end
        self.finished[self.running] = ends
        rows = (~ends & (self.counts < self.limits)[self.running]).nonzero().flatten()
        self.running, self.draws = self.running[rows], self.draws[rows] if self.seeds is not None else self.draws
        return rows, tokens_B[rows]

    def results(self) -> list[list[Hypothesis]]:
        """One hypothesis for each prompt."""
        if not self.steps:
            return []
        prompts, tokens = (torch.cat(parts) for parts in zip(*self.steps, strict=True))
        written = tokens[torch.argsort(prompts, stable=True)].split(self.counts.tolist())
        scores = normalised(self.log_probabilities, self.counts, self.length_penalty)
        return [
            [Hypothesis(tokens[:-1] if finished else tokens, score, finished)]
            for tokens, score, finished in zip(written, scores.tolist(), self.finished.tolist(), strict=True)
        ]


def sample(
    scores_BV: Tensor, draws_B: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """[B] tokens from softmax(scores / temperature), by inverting its cumulative sum at uniform draws in [0, 1).

    Args:
        scores_BV: before the softmax.
        draws_B: [B] float64; the same draws choose the same tokens.
        temperature: divides the scores.
        top_k: only the so many likeliest tokens (Fan et al. 2018, section 5.3).
        top_p: only the nucleus, the fewest likeliest tokens of which the probability adds up to this (Holtzman et al.
            2020, section 3.1); of what `top_k` leaves.
    """
    scores_BC, tokens_BC = scores_BV, None
    if top_k is not None or top_p is not None:
        scores_BC, tokens_BC = scores_BV.topk(min(top_k or scores_BV.shape[1], scores_BV.shape[1]))
    p_BC = (scores_BC.double() / temperature).softmax(1)
    if top_p is not None and top_p < 1:
        p_BC = p_BC.masked_fill(p_BC.cumsum(1) - p_BC >= top_p, 0)
    cumulative_BC = p_BC.cumsum(1)
    total_B1 = cumulative_BC[:, -1:]
    drawn_B1 = torch.searchsorted(cumulative_BC, draws_B.unsqueeze(1) * total_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BC, total_B1.contiguous())  # that can be drawn; behind it by rounding only
    drawn_B1 = torch.minimum(drawn_B1, last_B1)
    return (drawn_B1 if tokens_BC is None else tokens_BC.gather(1, drawn_B1)).squeeze(1)
