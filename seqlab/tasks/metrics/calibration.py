"""Calibration: is a model right as often as it is sure?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqlab.ragged import IGNORED
from seqlab.tasks.metrics.metric import Metric


@dataclass(frozen=True)
class Calibration(Metric):
    """Expected calibration error, "ece" (Guo et al. 2017, section 2).

    Rows fall into bins by the probability of the likeliest class, bin m holding what lies above m / bins and up to
    (m + 1) / bins. The error is the distance between accuracy and mean confidence of a bin, averaged over all rows.
    """

    bins: int = 15

    def tally(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Return [bins, 3] float64: rows, the sum of their confidences, how many are right.

        Args:
            predicted: [T, C], the scores of the classes before the softmax.
            targets: [T] int64. A target of -100 counts nothing.

        Sums of float32 confidences are exact, and so the same in any order, up to 2^29 / C rows: none is below 1 / C.
        """
        scores_TC, targets_T = predicted, targets
        at_least_float32 = torch.promote_types(scores_TC.dtype, torch.float32)
        confidences_T, predicted_T = scores_TC.softmax(1, dtype=at_least_float32).max(1)
        confidences_T = confidences_T.double()
        bins_T = (confidences_T * self.bins).ceil().long().clamp(1, self.bins) - 1
        rows_T3 = torch.stack([torch.ones_like(confidences_T), confidences_T, (predicted_T == targets_T).double()], 1)
        rows_T3 = rows_T3 * (targets_T != IGNORED).unsqueeze(1)
        return rows_T3.new_zeros(self.bins, 3).index_add_(0, bins_T, rows_T3)

    def read(self, tally: Tensor) -> dict[str, float]:
        rows, confidence, right = tally.double().unbind(1)
        return {"ece": ((right - confidence).abs().sum() / rows.sum()).item()}

    def higher_is_better(self, figure: str) -> bool:
        return False
