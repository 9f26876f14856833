"""Precision, recall and F1 from counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rates(NamedTuple):
    """Shares of 1, float64 [...]."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def rates(counts: Tensor) -> Rates:
    """From counts [..., 3] of what was found correctly, was predicted, and is there.

    nan where nothing was predicted and nothing is there: there is nothing to judge. Where only one of the two is
    nothing, all three are 0, as in conlleval.
    """
    correct, predicted, there = counts.double().unbind(-1)
    f1 = 2 * correct / (predicted + there)
    nothing = f1.isnan()
    precision, recall = ((correct / total.clamp(min=1)).masked_fill(nothing, torch.nan) for total in (predicted, there))
    return Rates(precision, recall, f1)


def by_name(names: tuple[str, ...], counts: Tensor) -> dict[str, float]:
    """ "precision/NAME", "recall/NAME" and "f1/NAME" from counts [names, 3]."""
    return {
        f"{rate}/{name}": value
        for rate, values in rates(counts)._asdict().items()
        for name, value in zip(names, values.tolist(), strict=True)
    }
