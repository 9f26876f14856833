"""Beam search: several hypotheses of each prompt, side by side, and the best of those that ended.

In a step every live hypothesis of a prompt is continued by every token, and these candidates are ranked by probability.
Those of the best `width` that end are finished; of the others the best `width` live on. So the first step has one
hypothesis, and a small vocabulary fewer than `width` for some steps: as many rows as there are, none for padding.

A prompt leaves as soon as no live hypothesis can still get among its `n_best`. A log-probability s only falls, and a
length only grows, up to the limit: no continuation scores more than s / limit^penalty. If that bound of the best live
one does not exceed the worst of `n_best` finished scores, searching on would change nothing. A hypothesis that reaches
the limit without an end competes as it is.
"""

from __future__ import annotations

import bisect

import torch
import torch.nn.functional as F
from torch import Tensor

from seqlab.models.hypothesis import Hypothesis, normalised, require_probable
from seqlab.ragged import offsets_of, positions_of, segments_of


class BeamSearch:
    """Rows of the batch are live hypotheses, prompt after prompt, the likeliest first.

    Args:
        end: the token that ends a sequence.
        limits: [N] int64, the most tokens to write for each prompt.
        width: how many hypotheses of a prompt live on.
        length_penalty: see `normalised`.
        n_best: how many hypotheses to give back for each prompt.
    """

    def __init__(self, end: int, limits: Tensor, width: int, length_penalty: float = 1.0, n_best: int = 1) -> None:
        self.end = end
        self.limits = limits
        self.width = width
        self.length_penalty = length_penalty
        self.n_best = n_best
        self.found: list[list[Hypothesis]] = [[] for _ in range(len(limits))]  # at most n_best, best first
        self.worst = torch.full((len(limits),), -torch.inf, dtype=torch.float64)  # what a hypothesis must exceed
        self.prompts = torch.empty(0, dtype=torch.int64)  # [P] that run
        self.lengths = self.prompts  # [P] tokens written
        self.widths = self.prompts  # [P] rows
        self.log_p_B = torch.empty(0, dtype=torch.float64)
        self.written_BL = torch.empty(0, 16, dtype=torch.int64)  # grows with the longest

    def __len__(self) -> int:
        return len(self.prompts)

    def join(self, prompts: Tensor) -> None:
        """These begin, in rows behind those that run, one each."""
        zeros = torch.zeros_like(prompts)
        self.prompts = torch.cat([self.prompts, prompts])
        self.lengths = torch.cat([self.lengths, zeros])
        self.widths = torch.cat([self.widths, zeros + 1])
        self.log_p_B = torch.cat([self.log_p_B, zeros.double()])
        self.written_BL = torch.cat([self.written_BL, zeros.unsqueeze(1).expand(-1, self.written_BL.shape[1])])

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that go on, some several times, and the token [B'] each goes on by, both on the CPU."""
        log_p_PC, rows_PC, tokens_PC = self.candidates(scores_BV)
        limits = self.limits[self.prompts]
        possible, ends = log_p_PC > -torch.inf, tokens_PC == self.end
        require_probable(bool(possible[:, 0].all()))
        lives = possible & ~ends
        lives &= lives.cumsum(1) <= self.width
        ends &= possible & (torch.arange(ends.shape[1]) < self.width)

        # Who is finished.
        lengths = self.lengths + 1
        complete = ends | (lives & (lengths == limits).unsqueeze(1))
        scores_PC = normalised(log_p_PC, lengths.unsqueeze(1), self.length_penalty)
        for p, c in (complete & (scores_PC > self.worst[self.prompts].unsqueeze(1))).nonzero().tolist():
            finished = bool(ends[p, c])
            tokens = self.written_BL[rows_PC[p, c], : lengths[p]].clone()
            if finished:
                tokens = tokens[:-1]
            else:
                tokens[-1] = tokens_PC[p, c]
            self.keep(int(self.prompts[p]), Hypothesis(tokens, scores_PC[p, c].item(), finished))

        # Who goes on: the best live hypothesis comes first, a log-probability of -inf stands for none.
        best_P = log_p_PC.masked_fill(~lives, -torch.inf).amax(1)
        goes_on = (lengths < limits) & (normalised(best_P, limits, self.length_penalty) > self.worst[self.prompts])
        lives &= goes_on.unsqueeze(1)
        rows, tokens_B = rows_PC[lives], tokens_PC[lives]
        self.prompts, self.lengths, self.widths = self.prompts[goes_on], lengths[goes_on], lives.sum(1)[goes_on]
        self.log_p_B, self.written_BL = log_p_PC[lives], self.written_BL[rows]
        longest = int(self.lengths.max()) if len(self) else 0
        if longest == self.written_BL.shape[1]:  # room for the end mark, too, which is cut off again
            self.written_BL = F.pad(self.written_BL, (0, longest))
        self.written_BL[torch.arange(len(rows)), (self.lengths - 1).repeat_interleave(self.widths)] = tokens_B
        return rows, tokens_B

    def candidates(self, scores_BV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[P, C] each, best first: log-probabilities (-inf: there are fewer), rows they continue and tokens.

        Twice the width are enough: no more than `width` of them can be ends, one for each live hypothesis.
        """
        width, most = self.width, min(2 * self.width, scores_BV.shape[1])
        best_BK, tokens_BK = scores_BV.topk(most)
        log_p_BK = (best_BK - scores_BV.logsumexp(1, keepdim=True)).cpu() + self.log_p_B.unsqueeze(1)
        places = segments_of(self.widths) * width + positions_of(self.widths)
        log_p = log_p_BK.new_full((len(self) * width, most), -torch.inf).index_copy_(0, places, log_p_BK)
        tokens = tokens_BK.new_zeros((len(self) * width, most), device="cpu").index_copy_(0, places, tokens_BK.cpu())
        log_p_PC, at_PC = log_p.view(len(self), -1).topk(min(2 * width, width * most))
        rows_PC = offsets_of(self.widths)[:-1].unsqueeze(1) + at_PC // most
        return log_p_PC, rows_PC, tokens.view(len(self), -1).gather(1, at_PC)

    def keep(self, prompt: int, hypothesis: Hypothesis) -> None:
        """Among the best of the prompt; of equal scores the first that came."""
        found = self.found[prompt]
        bisect.insort(found, hypothesis, key=lambda one: -one.score)
        del found[self.n_best :]
        if len(found) == self.n_best:
            self.worst[prompt] = found[-1].score

    def results(self) -> list[list[Hypothesis]]:
        """For each prompt its `n_best`, best first; fewer where there are no more."""
        return self.found
