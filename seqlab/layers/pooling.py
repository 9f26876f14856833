"""Pooling: one vector per sequence, from Ragged [T, D] to [B, D]. An empty sequence gives zeros."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.ragged import Ragged, segments_of


class Pooling(nn.Module):
    """From Ragged [T, D] to [B, D]; `core` takes [T, D] with lengths [B], or [N, L, D] with None."""

    @torch.jit.unused
    def forward(self, x: Ragged) -> Tensor:
        return self.core(x.values, x.lengths)

    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        raise NotImplementedError


class MeanPooling(Pooling):
    """The mean over the tokens of each sequence."""

    @torch.jit.export
    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return values.mean(1)
        segments = segments_of(lengths).to(values.device)
        sums = values.new_zeros([lengths.shape[0], values.shape[1]]).index_add(0, segments, values)
        return sums / lengths.clamp(min=1).to(values.device).unsqueeze(1)


class MaxPooling(Pooling):
    """The largest value of each feature over the tokens of each sequence."""

    @torch.jit.export
    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return values.amax(1)
        segments = segments_of(lengths).to(values.device).unsqueeze(1).expand_as(values)
        zeros = values.new_zeros([lengths.shape[0], values.shape[1]])
        return zeros.scatter_reduce(0, segments, values, "amax", include_self=False)


class LastPooling(Pooling):
    """The last token of each sequence."""

    @torch.jit.export
    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return values[:, -1]
        last = (lengths.cumsum(0) - 1).to(values.device)
        filled = lengths.to(values.device) > 0
        padded = torch.cat([values, values.new_zeros([1, values.shape[1]])])  # so that a row exists to read from
        return padded[torch.where(filled, last, values.shape[0])]
