"""A linear-chain conditional random field: the head of a tagger whose tags depend on their neighbours.

Lafferty, McCallum & Pereira 2001; on a neural network as in Huang et al. 2015 and Lample et al. 2016, section 2.2. A
path y of tags over a sequence has the score

    start[y_1] + scores[1, y_1] + transitions[y_1, y_2] + scores[2, y_2] + ... + end[y_L]

and the probability exp(score) / Z, where Z is summed over all paths. A sequence of length 0 has one path, of score 0.
Everything runs over a time-major batch (seqlab/ragged.py), which narrows as sequences end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.backend import is_fast
from seqlab.layers.heads import Head, at_least_float32
from seqlab.layers.recurrent.steps import end_rows, permute, previous_rows, reversed_rows
from seqlab.ragged import IGNORED, positions_of, time_major_of, widths_of


class CRFHead(Head):
    """Scores for the tags of each row, and for each pair of neighbouring tags.

    Only the former count as FLOPs: to sum over paths takes no products.

    Args:
        width: model width D of the rows that come in.
        classes: how many tags C.
        allowed: which tag, in the column, may follow which, in the row [C, C]; which may come first [C], and which
            last [C]; all bool. They bind what is answered, `decode` and `probabilities`, and not the loss: a text to
            learn from that breaks them has a finite loss. Some path of every length must be left. None: any.
    """

    allowed_transitions: Tensor
    allowed_start: Tensor
    allowed_end: Tensor

    def __init__(self, width: int, classes: int, allowed: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        super().__init__(width, classes)
        self.transitions = nn.Parameter(torch.zeros(classes, classes))
        self.start = nn.Parameter(torch.zeros(classes))
        self.end = nn.Parameter(torch.zeros(classes))
        for parameter, mask in zip(("transitions", "start", "end"), allowed or (None, None, None), strict=True):
            shape = getattr(self, parameter).shape
            mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
            if mask.shape != shape:
                raise ValueError(f"allowed {parameter} must be {list(shape)}, got {list(mask.shape)}")
            self.register_buffer(f"allowed_{parameter}", mask, persistent=False)

    def loss(self, hidden_TD: Tensor, targets_T: Tensor, lengths: Tensor) -> Tensor:
        """The sum over sequences of -log p(tags), in nats; 0 for no rows.

        A target of -100 is an unknown tag: the probability is that of all paths which agree with the known ones.
        """
        scores_TC = at_least_float32(self.scores(hidden_TD))
        known_T1, target_T1 = (targets_T != IGNORED).unsqueeze(1), targets_T.unsqueeze(1)
        others_TC = known_T1.expand_as(scores_TC).scatter(1, target_T1.masked_fill(~known_T1, 0), False)
        agreeing_TC = scores_TC.masked_fill(others_TC, -torch.inf)
        log_z_2B = self.log_partition(torch.cat([scores_TC, agreeing_TC]), torch.cat([lengths, lengths]))
        every_B, agreeing_B = log_z_2B.view(2, len(lengths))
        return (every_B - agreeing_B).sum().to(scores_TC.dtype)

    def log_partition(self, scores_TC: Tensor, lengths: Tensor) -> Tensor:
        """[B] log Z; scores of -inf leave tags out, but not all of a row."""
        index, inverse, longest, _ = time_major_of(lengths)
        lengths = lengths[longest]
        scores_TC = permute(scores_TC, index.to(scores_TC.device), inverse.to(scores_TC.device))
        parameters = self.transitions, self.start, self.end
        if is_fast():
            log_z_B = _LogPartition.apply(scores_TC, *parameters, lengths)
        else:
            log_z_B = log_partition(scores_TC, *parameters, lengths)
        return log_z_B[torch.argsort(longest).to(log_z_B.device)]

    def probabilities(self, hidden_TD: Tensor, lengths: Tensor) -> Tensor:
        """Return the probability of each tag over all allowed paths, [T, C]."""
        x_TC, until_TC, from_TC = self.both_ways(hidden_TD, lengths)
        return (until_TC + from_TC - x_TC).softmax(1)

    def likelihoods(self, hidden_TD: Tensor, lengths: Tensor, tags_T: Tensor) -> tuple[Tensor, Tensor]:
        """[T] each: the probability of these tags, and of each given the one before it; the first has none before it.

        The field is a Markov chain: a span's tags together have the probability of its first one times those of the
        others, given the ones before. The tags must be allowed.
        """
        x_TC, until_TC, from_TC = self.both_ways(hidden_TD, lengths)
        tags_T1 = tags_T.unsqueeze(1)
        p_T = (until_TC + from_TC - x_TC).softmax(1).gather(1, tags_T1).squeeze(1)
        inside = (positions_of(lengths) > 0).to(tags_T.device)
        before_T = tags_T.roll(1)
        after_T = (from_TC - x_TC).gather(1, tags_T1).squeeze(1).roll(1)  # of the row before: all that may follow it
        pairs_T = self.allowed()[0][before_T, tags_T] + from_TC.gather(1, tags_T1).squeeze(1) - after_T
        return p_T, torch.where(inside, pairs_T.exp(), p_T)

    def both_ways(self, hidden_TD: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, C] each: the scores of the rows alone, and the logs of the sums over all paths to and from there
        (forward-backward), which both count them."""
        index, inverse, longest, widths = time_major_of(lengths)
        mirror = reversed_rows(lengths[longest]).to(hidden_TD.device)
        x_TC = at_least_float32(self.scores(hidden_TD.index_select(0, index.to(hidden_TD.device))))
        transitions, start, end = self.allowed()
        until_TC = prefix_scores(x_TC, transitions, start, widths)
        # Backward is forward on turned sequences.
        from_TC = prefix_scores(x_TC.index_select(0, mirror), transitions.t(), end, widths).index_select(0, mirror)
        inverse = inverse.to(hidden_TD.device)
        return x_TC.index_select(0, inverse), until_TC.index_select(0, inverse), from_TC.index_select(0, inverse)

    def decode(self, hidden_TD: Tensor, lengths: Tensor) -> Tensor:
        """Return the likeliest allowed path of every sequence (Viterbi 1967), [T] int64."""
        index, inverse, _, widths = time_major_of(lengths)
        x_TC = at_least_float32(self.scores(hidden_TD.index_select(0, index.to(hidden_TD.device))))
        transitions, start, end = self.allowed()
        tags_T = viterbi(x_TC, transitions, start, end, widths)
        return tags_T.index_select(0, inverse.to(hidden_TD.device))

    def allowed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return transitions, start and end with -inf where they are not allowed."""
        return (
            self.transitions.masked_fill(~self.allowed_transitions, -float("inf")),
            self.start.masked_fill(~self.allowed_start, -float("inf")),
            self.end.masked_fill(~self.allowed_end, -float("inf")),
        )


# ------------------------------------------------------------------ plain operators, on rows in time-major order


def prefix_scores(scores_TC: Tensor, transitions: Tensor, start: Tensor, widths_S: Tensor) -> Tensor:
    """[T, C]: log of the sum over all paths from the beginning that end in this row with this tag."""
    widths: list[int] = widths_S.tolist()
    if len(widths) == 0:
        return scores_TC
    rows = scores_TC.split(widths)
    sums = [start + rows[0]]
    for s in range(1, len(widths)):
        through_bCC = sums[-1][: widths[s]].unsqueeze(2) + transitions
        sums.append(through_bCC.logsumexp(1) + rows[s])
    return torch.cat(sums)


def log_partition(scores_TC: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    """[B] log Z; lengths longest first."""
    last = end_rows(lengths)[1].to(scores_TC.device)
    whole = (prefix_scores(scores_TC, transitions, start, widths_of(lengths))[last] + end).logsumexp(1)
    return torch.cat([whole, whole.new_zeros(lengths.shape[0] - last.shape[0])])


def viterbi(scores_TC: Tensor, transitions: Tensor, start: Tensor, end: Tensor, widths_S: Tensor) -> Tensor:
    """[T] int64: the tags of the path with the highest score."""
    widths: list[int] = widths_S.tolist()
    if len(widths) == 0:
        return torch.zeros([0], dtype=torch.int64, device=scores_TC.device)
    rows = scores_TC.split(widths)
    best = start + rows[0]
    came_from: list[Tensor] = []
    ended: list[Tensor] = []
    for s in range(1, len(widths)):
        ended.append(best[widths[s] :])
        through, tags = (best[: widths[s]].unsqueeze(2) + transitions).max(1)
        came_from.append(tags)
        best = through + rows[s]
    tags = (best + end).argmax(1)
    path = [tags]
    for i in range(len(came_from)):  # back to the first step; the batch widens by the sequences that end in each
        s = len(came_from) - 1 - i
        before = came_from[s].gather(1, tags.unsqueeze(1)).squeeze(1)
        tags = torch.cat([before, (ended[s] + end).argmax(1)])
        path.append(tags)
    path.reverse()
    return torch.cat(path)


class _LogPartition(torch.autograd.Function):
    """`log_partition` in products, with the gradient written out: the fast path.

    The sums of a step are divided by their total, whose logarithm is kept (Rabiner 1989, section V.A). Then a step is
    one product [b, C] [C, C], and the gradient of all transitions one product over all rows. The numbers are
    exponentials of differences of scores, in float64, where e^-700 is still a number: as long as twice the range of the
    transitions and the range of a row's scores stay below 700 together, nothing that matters is lost.
    """

    @staticmethod
    def forward(
        ctx: Any, scores_TC: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
    ) -> Tensor:
        widths: list[int] = widths_of(lengths).tolist()
        x_TC, x_max_T = _exponentials(scores_TC)
        a_CC, a_max = _exponentials(transitions.flatten())
        a_CC = a_CC.view(transitions.shape)
        start_C, start_max = _exponentials(start)
        end_C, end_max = _exponentials(end)
        p_TC, totals_T1 = torch.empty_like(x_TC), torch.empty_like(x_TC[:, :1])
        x, p, totals = x_TC.split(widths), p_TC.split(widths), totals_T1.split(widths)
        for s, width in enumerate(widths):
            torch.mul(x[s], p[s - 1][:width] @ a_CC if s else start_C, out=p[s])
            torch.sum(p[s], 1, keepdim=True, out=totals[s])
            p[s].div_(totals[s])
        last = end_rows(lengths)[1].to(p_TC.device)
        z_b = p_TC[last] @ end_C
        ctx.save_for_backward(x_TC, p_TC, totals_T1, a_CC, end_C / z_b.unsqueeze(1), lengths)
        ctx.dtypes = scores_TC.dtype, transitions.dtype, start.dtype, end.dtype

        lanes_T = positions_of(widths_of(lengths)).to(p_TC.device)
        log_z_B = p_TC.new_zeros(lengths.shape[0]).index_add_(0, lanes_T, totals_T1.squeeze(1).log() + x_max_T)
        log_z_B[: len(last)] += z_b.log() + start_max + end_max
        return log_z_B.add_((lengths - 1).clamp(min=0).to(log_z_B.device) * a_max)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of log Z is an expectation: of each tag in each row, and of each pair of neighbours."""
        x_TC, p_TC, totals_T1, a_CC, from_last_bC, lengths = ctx.saved_tensors
        widths: list[int] = widths_of(lengths).tolist()
        first, last = (rows.to(p_TC.device) for rows in end_rows(lengths))
        from_TC = torch.empty_like(p_TC)  # what the rows after this one add, over what p lacks to be a probability
        from_TC[last] = from_last_bC
        through_TC = x_TC / totals_T1
        through, after, a_t = through_TC.split(widths), from_TC.split(widths), a_CC.t()
        for s in range(len(widths) - 1, -1, -1):
            through[s].mul_(after[s])
            if s:
                torch.mm(through[s], a_t, out=after[s - 1][: widths[s]])
        grad_T1 = grad_B[positions_of(widths_of(lengths)).to(p_TC.device)].unsqueeze(1)
        expected_TC = p_TC.mul(from_TC).mul_(grad_T1)
        before_TC = previous_rows(p_TC, p_TC.new_zeros(lengths.shape[0], p_TC.shape[1]), lengths, False)
        pairs_CC = (before_TC.t() @ through_TC.mul_(grad_T1)).mul_(a_CC)
        gradients = expected_TC, pairs_CC, expected_TC[first].sum(0), expected_TC[last].sum(0)
        return *(gradient.to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)), None


def _exponentials(x: Tensor) -> tuple[Tensor, Tensor]:
    """exp(x - m) in float64, and m, the largest value of the last dimension."""
    x = x.double()
    m = x.amax(-1)
    return x.sub(m.unsqueeze(-1)).exp_(), m
