"""Linear recurrences, h_t = a_t * h_{t-1} + b_t, over a whole time-major batch at once; and the cells made of them.

minGRU and minLSTM (Feng, Tung, Hassani, Bengio & Hajimirsadeghi 2024, "Were RNNs All We Needed?") drop the state from
their gates. All a and b are then known before the first step, and what remains to be done in order is linear.

Three ways to do that compute the same function:

    machine code  one sweep over the steps (native/recurrence.cpp), on the CPU where there is a compiler
    by steps      one operator `b + a * h` per step on the rows that are running, on the CPU elsewhere
    by halving    on accelerators: pairs of neighbouring steps are joined, (a, b) then (a', b') being (a' a, a' b + b'),
                  the sequences of half the length are solved the same way, and the steps in between follow: about five
                  times the work of T rows in log2(S) rounds (an associative scan: Blelloch 1990, section 1.4). The odd
                  steps of a time-major batch are one again, so no round ever sees two sequences as one.

All work on a and b themselves. Where a lies in (0, 1), products of a can only fade to 0, which is then the right
answer; nothing is divided, b may have any sign, and a state of 0 is no special case. A scan over logarithms (Heinsen
2023) needs positive numbers, or complex ones. Logarithms are used where they are needed: in minLSTM's gates.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.linear import Linear
from seqlab.layers.recurrent import compiled
from seqlab.layers.recurrent.steps import final_rows, previous_rows, reversed_rows
from seqlab.ragged import offsets_of, positions_of, segments_of, widths_of


def linear_recurrence(
    a_TH: Tensor, b_TH: Tensor, lengths: Tensor, initial_BH: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h_t = a_t * h_{t-1} + b_t in every sequence, feature by feature, from its initial state.

    Can be differentiated once, by a, b and the initial state.

    Args:
        a_TH, b_TH: time-major rows (seqlab/ragged.py); a between 0 and 1, b any.
        lengths: [B] int64 on the CPU, longest first.
        initial_BH: the state before the first token read; its dtype is the one computed in.
        reverse: read every sequence from its end.

    Returns:
        h [T, H], and the state [B, H] after each sequence's last step: of a sequence without tokens, the initial one.
    """
    dtype = initial_BH.dtype
    h_TH, last_BH = _LinearRecurrence.apply(a_TH.to(dtype), b_TH.to(dtype), initial_BH, lengths, reverse)
    return h_TH, last_BH


def describe(device: torch.device) -> str:
    """Return the name of what scans."""
    if compiled.can_run(torch.empty(1, device=device)):
        return "machine code of our own"
    return "a loop of torch's operators" if device.type == "cpu" else "a scan by halving"


class _LinearRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a_TH: Tensor, b_TH: Tensor, initial_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        h_TH, last_BH = _scan(a_TH, b_TH, lengths, initial_BH, reverse)
        ctx.save_for_backward(a_TH, h_TH, initial_BH, lengths)
        ctx.reverse = reverse
        return h_TH, last_BH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_TH: Tensor, dlast_BH: Tensor) -> tuple[Tensor | None, ...]:
        """What flows into h_t is g_t = dh_t + a_{t+1} g_{t+1}; so m_t = a_t g_t = a_t m_{t+1} + a_t dh_t is the same
        recurrence, read the other way from the gradient of the last state, and ends at that of the initial state."""
        a_TH, h_TH, initial_BH, lengths = ctx.saved_tensors
        m_TH, dinitial_BH = _scan(a_TH, a_TH * dh_TH, lengths, dlast_BH, not ctx.reverse)
        db_TH = dh_TH + previous_rows(m_TH, dlast_BH, lengths, not ctx.reverse)
        da_TH = db_TH * previous_rows(h_TH, initial_BH, lengths, ctx.reverse)
        return da_TH, db_TH, dinitial_BH, None, None


def _scan(a_TH: Tensor, b_TH: Tensor, lengths: Tensor, initial_BH: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    if compiled.can_run(b_TH):
        h_TH = compiled.scan(a_TH, b_TH, lengths, initial_BH, reverse)
    elif b_TH.device.type == "cpu":
        h_TH = _scan_by_steps(a_TH, b_TH, lengths, initial_BH, reverse)
    else:
        h_TH = _scan_by_halving(a_TH, b_TH, lengths, initial_BH, reverse)
    return h_TH, final_rows(h_TH, initial_BH, lengths, reverse)


def _scan_by_steps(a_TH: Tensor, b_TH: Tensor, lengths: Tensor, initial_BH: Tensor, reverse: bool) -> Tensor:
    widths: list[int] = widths_of(lengths).tolist()
    h_TH = torch.empty_like(b_TH)
    steps = list(zip(a_TH.split(widths), b_TH.split(widths), h_TH.split(widths), strict=True)) if widths else []
    before = initial_BH[: (widths or [0])[-1 if reverse else 0]]
    for a, b, h in reversed(steps) if reverse else steps:
        running = before.shape[0]
        if running > h.shape[0]:
            before = before[: h.shape[0]]
        elif running < h.shape[0]:
            before = torch.cat([before, initial_BH[running : h.shape[0]]])
        before = torch.addcmul(b, a, before, out=h)
    return h_TH


def _scan_by_halving(a_TH: Tensor, b_TH: Tensor, lengths: Tensor, initial_BH: Tensor, reverse: bool) -> Tensor:
    if reverse:  # the last tokens of all sequences, the last but one, ...: a time-major batch too
        mirror = reversed_rows(lengths).to(b_TH.device)
        a_TH, b_TH = a_TH.index_select(0, mirror), b_TH.index_select(0, mirror)
    else:
        b_TH = b_TH.clone()
    filled = int((lengths > 0).sum())
    b_TH[:filled].addcmul_(a_TH[:filled], initial_BH[:filled])
    h_TH = _halve(a_TH, b_TH, lengths)
    return h_TH.index_select(0, mirror) if reverse else h_TH


def _halve(a_TH: Tensor, b_TH: Tensor, lengths: Tensor) -> Tensor:
    """h from a state of 0. b0 b1 b2 b3 b4: b0 and b1 make a step, b2 and b3 too; h0, h2, h4 follow from h1 and h3."""
    if lengths.shape[0] == 0 or int(lengths[0]) <= 1:
        return b_TH
    widths = widths_of(lengths)
    step = segments_of(widths)
    before = offsets_of(widths)[(step - 1).clamp(min=0)] + positions_of(widths)  # the row of the same sequence
    odd = (step % 2 == 1).nonzero().flatten()
    even = ((step % 2 == 0) & (step > 0)).nonzero().flatten()
    odd, even, before_odd, before_even = (rows.to(b_TH.device) for rows in (odd, even, before[odd], before[even]))
    a_odd = a_TH.index_select(0, odd)
    b_odd = b_TH.index_select(0, odd).addcmul_(a_odd, b_TH.index_select(0, before_odd))
    h_odd = _halve(a_odd.mul_(a_TH.index_select(0, before_odd)), b_odd, lengths // 2)
    h_TH = b_TH.index_copy(0, odd, h_odd)
    h_even = b_TH.index_select(0, even).addcmul_(a_TH.index_select(0, even), h_TH.index_select(0, before_even))
    return h_TH.index_copy_(0, even, h_even)


class MinimalCell(nn.Module):
    """A cell whose gates read the token alone: `project` gives a and b of h_t = a_t h_{t-1} + b_t, [T, 2 H]."""

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.gates = Linear(input_size, gates * hidden_size)

    def initial_state(self, batch: int) -> list[Tensor]:
        return [self.gates.weight.new_zeros(batch, self.hidden_size)]

    def project(self, x_TD: Tensor) -> Tensor:
        """Return a and b of all tokens, [T, 2 H]."""
        raise NotImplementedError

    def forward(self, x_BG: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        a_BH, b_BH = x_BG.chunk(2, 1)
        h_BH = a_BH * state[0] + b_BH
        return h_BH, [h_BH]

    def unroll(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool) -> tuple[Tensor, list[Tensor]]:
        a_TH, b_TH = self.project(x_TD).chunk(2, 1)
        h_TH, last_BH = linear_recurrence(a_TH, b_TH, lengths, state[0], reverse)
        return h_TH, [last_BH]


def positive(x: Tensor) -> Tensor:
    """g of Feng et al. 2024, appendix B: x + 1/2 where x is not negative, sigmoid(x) elsewhere.

    As a sum, in which one part is constant on either side of 0: half the time of `torch.where`, and the same gradient.
    """
    return x.clamp(min=0) + torch.sigmoid(-F.relu(-x))


class MinGRUCell(MinimalCell):
    """minGRU (Feng et al. 2024, section 3.1): h_t = (1 - z) * h_{t-1} + z * g(candidate); gates z, candidate.

    The candidate goes through g, as in the version of appendix B that the paper trains.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=2)

    def project(self, x_TD: Tensor) -> Tensor:
        z, candidate = self.gates(x_TD).to(self.gates.weight.dtype).chunk(2, 1)
        return torch.cat([torch.sigmoid(-z), torch.sigmoid(z) * positive(candidate)], 1)


class MinLSTMCell(MinimalCell):
    """minLSTM (Feng et al. 2024, section 3.2): h_t = f / (f + i) * h_{t-1} + i / (f + i) * g(candidate); gates f, i,
    candidate.

    Both shares are a sigmoid of log f - log i (appendix B): f + i may be as small as it likes.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=3)

    def project(self, x_TD: Tensor) -> Tensor:
        f, i, candidate = self.gates(x_TD).to(self.gates.weight.dtype).chunk(3, 1)
        log_ratio = F.logsigmoid(f) - F.logsigmoid(i)
        return torch.cat([torch.sigmoid(log_ratio), torch.sigmoid(-log_ratio) * positive(candidate)], 1)
