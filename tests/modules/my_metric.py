"""A researcher's own metric, outside the package: how much longer or shorter what is written is than its reference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqlab.tasks.metrics.metric import Metric


class LengthError(Metric):
    """The mean difference of the lengths of two texts, in characters."""

    main = "length_error"
    signature = "unit:character"

    def tally(self, predicted: Sequence[str], targets: Sequence[str]) -> Tensor:
        differences = [abs(len(one) - len(other)) for one, other in zip(predicted, targets, strict=True)]
        return torch.tensor([sum(differences), len(differences)])

    def read(self, tally: Tensor) -> dict[str, float]:
        total, count = tally.double()
        return {"length_error": (total / count).item()}

    def higher_is_better(self, figure: str) -> bool:
        return False
