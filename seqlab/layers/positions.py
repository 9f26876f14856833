"""Positions: how a token's place in its own sequence enters a Transformer. They restart in every sequence.

A scheme acts in one of two places, and leaves the other alone: on the embeddings (`embed`) or on queries and keys
(`rotate`). All are made by calling `scheme(width=D, head_width=K)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Positions(nn.Module):
    """A scheme of positions. This base leaves both places alone."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()

    @torch.jit.export
    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        """[..., T, D] embeddings with their positions."""
        return x_TD

    @torch.jit.export
    def rotate(self, q_THK: Tensor, positions_T: Tensor) -> Tensor:
        """[..., T, H, K] queries or keys with their positions."""
        return q_THK


class NoPositions(Positions):
    """No positions at all: attention then sees a set, or, when it is causal, how much came before."""


class LearnedPositions(Positions):
    """A trained vector for each of the first `max_length` positions (Gehring et al. 2017, section 3.1)."""

    def __init__(self, width: int, head_width: int, max_length: int = 2048) -> None:
        super().__init__(width, head_width)
        self.max_length = max_length
        self.table = nn.Parameter(torch.randn(max_length, width) * 0.02)

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        if positions_T.device.type == "cpu" and positions_T.numel() > 0:  # elsewhere one would wait for the device
            length = int(positions_T.max()) + 1
            if length > self.table.shape[0]:
                raise ValueError(
                    f"a sequence has {length} tokens and there are {self.table.shape[0]} learned positions; "
                    "raise model.positions.max_length, or lower batch.max_length"
                )
        return x_TD + self.table[positions_T]


def _angles(positions_T: Tensor, width: int, base: float, like: Tensor) -> Tensor:
    """[T, width / 2] angles position / base^(2 i / width), computed in float32 or better."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=dtype, device=like.device) * (-math.log(base) / width))
    return positions_T.to(dtype).unsqueeze(1) * frequencies


class SinusoidalPositions(Positions):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__(width, head_width)
        if width % 2:
            raise ValueError(f"sinusoidal positions need an even model.width, got {width}")
        self.width = width

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        angles = _angles(positions_T, self.width, 10_000.0, x_TD)
        return x_TD + torch.cat([angles.sin(), angles.cos()], 1).to(x_TD.dtype)


class RotaryPositions(Positions):
    """Queries and keys turned by an angle that grows with the position (Su et al. 2021, section 3.2.2)."""

    def __init__(self, width: int, head_width: int, base: float = 10_000.0) -> None:
        super().__init__(width, head_width)
        if head_width % 2:
            raise ValueError(f"rotary positions need an even model.width / model.heads, got {head_width}")
        self.head_width = head_width
        self.base = base

    def rotate(self, q_THK: Tensor, positions_T: Tensor) -> Tensor:
        angles = _angles(positions_T, self.head_width, self.base, q_THK).unsqueeze(1)
        cos, sin = angles.cos().to(q_THK.dtype), angles.sin().to(q_THK.dtype)
        a, b = q_THK.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
