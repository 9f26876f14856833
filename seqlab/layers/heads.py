"""Heads: what a model answers with, and the loss that trains it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SoftmaxHead(nn.Module):
    """One score per class for every row: the output layer of language models, classifiers and taggers.

    Args:
        width: model width D of the rows that come in.
        classes: how many classes C; for a language model the vocabulary.
        weight: [C, D] to share, such as the embedding's (Press & Wolf 2017); None makes its own.
    """

    def __init__(self, width: int, classes: int, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        if weight is not None and weight.shape != (classes, width):
            raise ValueError(f"a shared weight must be [{classes}, {width}], got {list(weight.shape)}")
        self.weight = nn.Parameter(torch.randn(classes, width) * width**-0.5) if weight is None else weight
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """The scores."""
        return self.scores(hidden_TD)

    @torch.jit.export
    def scores(self, hidden_TD: Tensor) -> Tensor:
        """[T, D] to [T, C], before the softmax."""
        return F.linear(hidden_TD, self.weight, self.bias)

    def loss(self, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
        """The sum over rows of the negative log-likelihood, in nats; 0 for no rows."""
        scores_TC = self.scores(hidden_TD)
        at_least_float32 = torch.promote_types(scores_TC.dtype, torch.float32)
        return F.cross_entropy(scores_TC.to(at_least_float32), targets_T, reduction="sum")
