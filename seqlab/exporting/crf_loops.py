"""A conditional random field over a right-padded block [N, L, C], in the form that exported graphs keep.

The equations are those of seqlab/layers/crf.py, their loops those of loops.py. A step beyond the end of a sequence
changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqlab.exporting.loops import Step, scan
from seqlab.ragged import inside_of


def block_viterbi(scores_NLC: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    """Return the tags of the path with the highest score, [N, L] int64; beyond a length they mean nothing."""
    count, length, classes = scores_NLC.shape
    same_NC = torch.arange(classes, device=scores_NLC.device).expand(count, -1)

    def forward(before: list[Tensor], read: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        (best_NC,), (scores_NC, runs_N1, first_N1) = before, read
        through_NC, tags_NC = (best_NC.unsqueeze(2) + transitions).max(1)
        after_NC = torch.where(first_N1, start, through_NC) + scores_NC
        return [torch.where(runs_N1, after_NC, best_NC)], torch.where(runs_N1, tags_NC, same_NC).view(count, -1)

    def back(before: list[Tensor], read: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        (tag_N1,), (came_from_NC,) = before, read
        return [came_from_NC.gather(1, tag_N1)], tag_N1.view(count, -1).clone()

    steps = [scores_NLC.transpose(0, 1), *_steps(lengths, length)]
    (best_NC,), came_from_LNC = scan(forward, [torch.zeros_like(scores_NLC[:, 0])], steps)
    last_N1 = (best_NC + end).argmax(1, keepdim=True)
    return scan(back, [last_N1], [came_from_LNC], reverse=True)[1].squeeze(2).t()


def block_probabilities(scores_NLC: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    """Return the probability of each tag over all paths, [N, L, C]; beyond a length they mean nothing."""
    count, length, _ = scores_NLC.shape
    scores_LNC = scores_NLC.transpose(0, 1)
    runs_LN1, first_LN1 = _steps(lengths, length)
    last_LN1 = (torch.arange(length, device=lengths.device).unsqueeze(1) == lengths - 1).unsqueeze(2)

    def sums(matrix: Tensor, border: Tensor) -> Step:
        def step(before: list[Tensor], read: list[Tensor]) -> tuple[list[Tensor], Tensor]:
            (sum_NC,), (scores_NC, runs_N1, begins_N1) = before, read
            through_NC = (sum_NC.unsqueeze(2) + matrix).logsumexp(1)
            after_NC = torch.where(runs_N1, torch.where(begins_N1, border, through_NC) + scores_NC, sum_NC)
            return [after_NC], after_NC.view(count, -1).clone()

        return step

    nothing = [torch.zeros_like(scores_NLC[:, 0])]
    until_LNC = scan(sums(transitions, start), nothing, [scores_LNC, runs_LN1, first_LN1])[1]
    from_LNC = scan(sums(transitions.t(), end), nothing, [scores_LNC, runs_LN1, last_LN1], reverse=True)[1]
    return (until_LNC + from_LNC - scores_LNC).softmax(2).transpose(0, 1)


def _steps(lengths: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return whether a sequence runs at a step, and whether it begins there, [L, N, 1] bool each."""
    runs_LN1 = inside_of(lengths, length).t().unsqueeze(2)
    return runs_LN1, (torch.arange(length, device=lengths.device) == 0).view(-1, 1, 1).expand_as(runs_LN1)
