"""Pooling: one vector per sequence, from Ragged [T, D] to [B, D]. An empty sequence gives zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from seqlab.layers.heads import at_least_float32
from seqlab.layers.watch import is_watched, note
from seqlab.ragged import Ragged, segments_of

PoolingKind = Literal["mean", "max", "first", "last", "attention"]


class Pooling(nn.Module):
    """The base: from Ragged [T, D] to [B, D]. `core` takes values [T, D] and lengths [B]."""

    def forward(self, x: Ragged) -> Tensor:
        return self.core(x.values, x.lengths)

    def core(self, values: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError

    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a training step, see `SequenceLayer.flops`: those without products have none."""
        return 0.0


class MeanPooling(Pooling):
    """The mean over the tokens of each sequence."""

    def core(self, values: Tensor, lengths: Tensor) -> Tensor:
        segments = segments_of(lengths).to(values.device)
        sums = values.new_zeros([lengths.shape[0], values.shape[1]]).index_add(0, segments, values)
        return sums / lengths.clamp(min=1).to(values.device).unsqueeze(1)


class MaxPooling(Pooling):
    """The largest value of each feature over the tokens of each sequence."""

    def core(self, values: Tensor, lengths: Tensor) -> Tensor:
        segments = segments_of(lengths).to(values.device).unsqueeze(1).expand_as(values)
        zeros = values.new_zeros([lengths.shape[0], values.shape[1]])
        return zeros.scatter_reduce(0, segments, values, "amax", include_self=False)


class LastPooling(Pooling):
    """The last token of each sequence, where a reading ends; of the last `backward` features the first token, where a
    reading from the end does."""

    def __init__(self, backward: int = 0) -> None:
        super().__init__()
        self.backward = backward

    def core(self, values: Tensor, lengths: Tensor) -> Tensor:
        forward = values.shape[1] - self.backward
        after = lengths.cumsum(0)
        empty = lengths == 0
        # One row more, of zeros, so that a row exists to read from.
        last = (after - 1).masked_fill(empty, values.shape[0]).to(values.device)
        first = (after - lengths).masked_fill(empty, values.shape[0]).to(values.device)
        padded = torch.cat([values, values.new_zeros([1, values.shape[1]])])
        return torch.cat([padded[:, :forward].index_select(0, last), padded[:, forward:].index_select(0, first)], 1)


class AttentionPooling(Pooling):
    """A mean whose weights are a softmax, over the tokens of each sequence, of their products with a trained query.

    As in Yang et al. 2016, section 2.2, on the tokens themselves in place of a hidden layer. At first the plain mean.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def core(self, values: Tensor, lengths: Tensor) -> Tensor:
        scores = at_least_float32(values @ self.query.to(values.dtype))
        segments = segments_of(lengths).to(values.device)
        zeros = scores.new_zeros([lengths.shape[0]])
        largest = zeros.scatter_reduce(0, segments, scores.detach(), "amax", include_self=False)
        shares = (scores - largest.index_select(0, segments)).exp()
        shares = shares / zeros.index_add(0, segments, shares).index_select(0, segments)
        self.observe(shares, lengths)
        pooled = values.new_zeros([lengths.shape[0], values.shape[1]])
        return pooled.index_add(0, segments, shares.unsqueeze(1).to(values.dtype) * values)

    def observe(self, shares_T: Tensor, lengths: Tensor) -> None:
        """Show the weights to whoever watches."""
        if is_watched():
            note(self, [share_L.view(1, 1, -1) for share_L in shares_T.split(lengths.tolist())])

    def flops(self, lengths: Tensor) -> float:
        return 12.0 * self.query.shape[0] * int(lengths.sum())


def make_pooling(kind: PoolingKind, width: int, backward: int = 0) -> Pooling:
    """The pooling of that name, for vectors of `width` of which the last `backward` features read from the end."""
    makers: dict[str, Callable[[], Pooling]] = {
        "mean": MeanPooling,
        "max": MaxPooling,
        "first": lambda: LastPooling(width),
        "last": lambda: LastPooling(backward),
        "attention": lambda: AttentionPooling(width),
    }
    return makers[kind]()
