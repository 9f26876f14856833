"""Figures of predicted numbers."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from seqlab.tasks.metrics.metric import Metric


@dataclass(frozen=True)
class Regression(Metric):
    """Mean squared error, mean absolute error, and Pearson's r, which is nan where either side is constant."""

    main = "mse"

    def tally(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Return [8] float64: how many, sums of squared and absolute errors, of p, t, p^2, t^2 and p t.

        Args:
            predicted: [B].
            targets: [B].
        """
        p_B, t_B = predicted.double(), targets.double()
        parts = [torch.ones_like(p_B), (p_B - t_B) ** 2, (p_B - t_B).abs(), p_B, t_B, p_B**2, t_B**2, p_B * t_B]
        return torch.stack(parts).sum(1)

    def read(self, tally: Tensor) -> dict[str, float]:
        n, squared, absolute, p, t, pp, tt, pt = tally.tolist()
        if n == 0:
            return dict.fromkeys(("mse", "mae", "pearson"), math.nan)
        spread_p, spread_t = n * pp - p**2, n * tt - t**2
        rounding = n * sys.float_info.epsilon  # what n additions may leave of a spread of 0, relative to what is added
        varies = spread_p > rounding * n * pp and spread_t > rounding * n * tt
        pearson = (n * pt - p * t) / math.sqrt(spread_p) / math.sqrt(spread_t) if varies else math.nan
        return {"mse": squared / n, "mae": absolute / n, "pearson": pearson}

    def higher_is_better(self, figure: str) -> bool:
        return figure == "pearson"
