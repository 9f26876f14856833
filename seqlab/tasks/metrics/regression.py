"""Figures of predicted numbers."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """Mean squared error, mean absolute error, and Pearson's r, which is nan where either side is constant."""

    def tally(self, predicted_B: Tensor, targets_B: Tensor) -> Tensor:
        """[8] float64: how many, sums of squared and absolute errors, of p, t, p^2, t^2 and p t."""
        p_B, t_B = predicted_B.double(), targets_B.double()
        parts = [torch.ones_like(p_B), (p_B - t_B) ** 2, (p_B - t_B).abs(), p_B, t_B, p_B**2, t_B**2, p_B * t_B]
        return torch.stack(parts).sum(1)

    def read(self, tally: Tensor) -> dict[str, float]:
        n, squared, absolute, p, t, pp, tt, pt = tally.tolist()
        if n == 0:
            return dict.fromkeys(("mse", "mae", "pearson"), math.nan)
        spreads = []
        for total, squares in ((p, pp), (t, tt)):
            spread = n * squares - total**2
            # What n roundings may leave of a spread of 0.
            spreads.append(spread if spread > n * sys.float_info.epsilon * n * squares else math.nan)
        pearson = (n * pt - p * t) / math.sqrt(spreads[0]) / math.sqrt(spreads[1])
        return {"mse": squared / n, "mae": absolute / n, "pearson": max(-1.0, min(1.0, pearson))}
