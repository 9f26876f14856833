"""Which rows of a time-major batch a recurrence reads first, last, and before each other one; rows in another order.

Lengths come longest first, so row j of every step belongs to sequence j; of B sequences the last may be empty. With
`reverse` every sequence is read from its end. Lengths [3, 2, 1], rows a0 b0 c0 a1 b1 a2, give

    forward   first 0 1 2    last 5 4 2    before each row: initial a, b, c, then rows 0, 1, 3
    reverse   first 5 4 2    last 0 1 2    before each row: rows 3, 4, initial c, row 5, initial b, a
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqlab.ragged import offsets_of, positions_of, segments_of, widths_of


def end_rows(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Of every sequence that has tokens, the row of its first token and that of its last."""
    lengths = lengths[lengths > 0]
    lanes = torch.arange(lengths.shape[0])
    return lanes, offsets_of(widths_of(lengths))[lengths - 1] + lanes if len(lanes) else lanes


def final_rows(rows_TH: Tensor, initial_BH: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """[B, H]: the row of each sequence that was read last; for one without tokens its initial row."""
    first, last = end_rows(lengths)
    ends = (first if reverse else last).to(rows_TH.device)
    final_BH = initial_BH.clone()
    final_BH[: len(ends)] = rows_TH[ends]
    return final_BH


def previous_rows(rows_TH: Tensor, initial_BH: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """[T, H]: for every row the one that was read before it in the same sequence, or its initial row."""
    if rows_TH.shape[0] == 0:
        return rows_TH
    widths = widths_of(lengths)
    step, lane, starts = segments_of(widths), positions_of(widths), offsets_of(widths)
    previous = starts[(step + (1 if reverse else -1)).clamp(min=0)] + lane
    first, last = end_rows(lengths)
    begins = last if reverse else first
    previous[begins] = 0
    before_TH = rows_TH.index_select(0, previous.to(rows_TH.device))
    before_TH[begins.to(rows_TH.device)] = initial_BH[: len(begins)]
    return before_TH


def reversed_rows(lengths: Tensor) -> Tensor:
    """[T]: where each row goes when every sequence is turned round; doing it twice changes nothing."""
    widths = widths_of(lengths)
    step, lane = segments_of(widths), positions_of(widths)
    return offsets_of(widths)[lengths[lane] - 1 - step] + lane


class _Permute(torch.autograd.Function):
    """Rows in another order. The gradient of a permutation is a gather too, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, index), None, None


def permute(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Return `x[index]` where `index` is a permutation and `inverse` undoes it."""
    return _Permute.apply(x, index, inverse)
