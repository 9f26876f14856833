"""Labels between which rounding decides: several are right.

Scores that another program computes differ in their last digits, and where two labels, or two paths of a conditional
random field, are as good as one another, it may choose the other one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqlab.layers.crf import CRFHead
from seqlab.ragged import Ragged


def as_good(head: Any, hidden: Ragged, got_W: Tensor, best_W: Tensor, atol: float, rtol: float) -> Tensor:
    """[W] bool: which labels are as good as the best, but for atol + rtol * |what the best is worth|.

    Args:
        head: of a tagger; a conditional random field chooses the labels of a sentence together, by the score of their
            path, others that of each word by its probability.
        hidden: the vectors [W, D] of the words of every sentence.
        got_W, best_W: labels, of which the latter are the best.
    """
    if isinstance(head, CRFHead):
        got, best = (path_scores(head, hidden, labels) for labels in (got_W, best_W))
        return (got >= best - atol - rtol * best.abs())[hidden.layout.segments]
    chances_WC = head.probabilities(hidden.values)
    got, best = (chances_WC.gather(1, labels.unsqueeze(1)).squeeze(1) for labels in (got_W, best_W))
    return got >= best - atol - rtol * best


def path_scores(head: CRFHead, hidden: Ragged, labels_W: Tensor) -> Tensor:
    """[B]: what the path of every sentence is worth (seqlab/layers/crf.py); -inf where it is not allowed."""
    transitions, start, end = (part.double() for part in head.allowed())
    layout = hidden.layout
    worth_W = head.scores(hidden.values).double().gather(1, labels_W.unsqueeze(1)).squeeze(1)
    first_W = layout.positions == 0
    last_W = first_W.roll(-1)  # the next one is the first of its sentence; after the very last comes the very first
    worth_W = worth_W + torch.where(first_W, start[labels_W], transitions[labels_W.roll(1), labels_W])
    worth_W = worth_W + torch.where(last_W, end[labels_W], 0.0)
    return worth_W.new_zeros(len(layout)).index_add(0, layout.segments, worth_W)
