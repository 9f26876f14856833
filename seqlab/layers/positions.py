"""Positions: how a token's place in its own sequence enters a Transformer. They restart in every sequence.

A scheme acts in one of three places, and leaves the others alone: on the embeddings (`embed`), on queries and keys
(`rotate`) or on the scores of attention (`bias`). All are made by calling `scheme(width=D, head_width=K)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqlab.ragged import rows_of


def places(starts: Tensor | None, lengths: Tensor, values_TD: Tensor) -> Tensor:
    """Return the place of each token in its sequence, [T] int64, on the device of the values.

    `starts` [B] are the first places; None: 0.
    """
    if torch.compiler.is_compiling() and starts is None:
        return _opaque_places(lengths, values_TD)
    return rows_of(torch.zeros_like(lengths) if starts is None else starts, lengths).to(values_TD.device)


@torch.library.custom_op(
    "seqlab::places", mutates_args=(), schema="(Tensor lengths, Tensor values) -> Tensor"
)  # how many there are depends on the lengths, which a compiler must not look into; here it is told: one per row
def _opaque_places(lengths: Tensor, values_TD: Tensor) -> Tensor:
    return places(None, lengths, values_TD)


@_opaque_places.register_fake
def _(lengths: Tensor, values_TD: Tensor) -> Tensor:
    return values_TD.new_empty(values_TD.shape[0], dtype=torch.int64)


class Positions(nn.Module):
    """A scheme of positions. This base leaves all three places alone.

    Attributes:
        max_length: the longest sequence whose positions are known; None: any.
    """

    max_length: int | None = None

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        """[..., T, D] embeddings with their positions."""
        return x_TD

    def rotate(self, q_THK: Tensor, positions_T: Tensor) -> Tensor:
        """[..., T, H, K] queries or keys with their positions."""
        return q_THK

    def bias(self, causal: bool) -> Tensor | None:
        """[H, 2 r + 1]: what each head adds to a score when the key stands -r ... r places after the query."""
        return None


class NoPositions(Positions):
    """No positions at all: attention then sees a set, or, when it is causal, how much came before."""


class LearnedPositions(Positions):
    """A trained vector for each of the first `max_length` positions (Gehring et al. 2017, section 3.1)."""

    def __init__(self, width: int, head_width: int, max_length: int = 2048) -> None:
        super().__init__(width, head_width)
        if max_length < 1:
            raise ValueError(f"positions.max_length={max_length}: expected at least 1")
        self.max_length = max_length
        self.table = nn.Parameter(torch.randn(max_length, width) * 0.02)

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        # On another device, looking would wait for it.
        if positions_T.device.type == "cpu" and positions_T.numel() > 0 and not torch.compiler.is_compiling():
            self.require(int(positions_T.max()) + 1)
        return x_TD + self.table[positions_T]

    def require(self, length: int) -> None:
        """Raise ValueError if a sequence of this length has more tokens than there are positions."""
        if length > self.table.shape[0]:
            raise ValueError(
                f"a sequence has {length} tokens and there are {self.table.shape[0]} learned positions; "
                "raise model.positions.max_length, or lower batch.max_length"
            )


def _angles(positions_T: Tensor, width: int, base: float, like: Tensor) -> Tensor:
    """[..., width / 2] angles position / base^(2 i / width), computed in float32 or better."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=dtype, device=like.device) * (-math.log(base) / width))
    return positions_T.to(dtype).unsqueeze(-1) * frequencies


class SinusoidalPositions(Positions):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__(width, head_width)
        if width % 2:
            raise ValueError(f"sinusoidal positions need an even model.width, got {width}")
        self.width = width

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        angles = _angles(positions_T, self.width, 10_000.0, x_TD)
        return x_TD + torch.cat([angles.sin(), angles.cos()], -1).to(x_TD.dtype)


class RotaryPositions(Positions):
    """Queries and keys turned by an angle that grows with the position (Su et al. 2021, section 3.2.2)."""

    def __init__(self, width: int, head_width: int, base: float = 10_000.0) -> None:
        super().__init__(width, head_width)
        if head_width % 2:
            raise ValueError(f"rotary positions need an even model.width / model.heads, got {head_width}")
        self.head_width = head_width
        self.base = base

    def rotate(self, q_THK: Tensor, positions_T: Tensor) -> Tensor:
        angles = _angles(positions_T, self.head_width, self.base, q_THK).unsqueeze(-2)
        cos, sin = angles.cos().to(q_THK.dtype), angles.sin().to(q_THK.dtype)
        a, b = q_THK.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RelativePositions(Positions):
    """A trained number per head and distance, added to the scores (Raffel et al. 2020, section 2.1).

    Distances share `buckets`: near ones have a bucket each, which takes half of them; farther ones share buckets spaced
    logarithmically up to `max_distance`, and all beyond share the last. Where attention looks both ways, each way has
    half the buckets. At first all are zero: no positions. The same numbers serve every block, as in that paper.
    """

    def __init__(self, width: int, head_width: int, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__(width, head_width)
        if buckets < 4 or buckets % 4 or max_distance <= buckets // 2:
            raise ValueError(
                f"positions.buckets={buckets} must be a multiple of 4, and positions.max_distance={max_distance} more "
                "than half of it"
            )
        self.max_distance = max_distance
        self.table = nn.Parameter(torch.zeros(buckets, width // head_width))

    def bucket(self, distance: Tensor, causal: bool) -> Tensor:
        """The bucket of each distance (place of key - place of query); causal attention has none above 0."""
        buckets = self.table.shape[0]
        before = (-distance).clamp(min=0)
        first = torch.zeros_like(distance)
        if not causal:
            buckets = buckets // 2
            before = distance.abs()
            first = torch.where(distance > 0, buckets, first)
        exact = buckets // 2
        far = torch.log(before.clamp(min=1).double() / exact) / math.log(self.max_distance / exact)
        far = far * (buckets - exact) + 1e-9  # a bound belongs to what follows
        far = (exact + far.long()).clamp(max=buckets - 1)
        return first + torch.where(before < exact, before, far)

    def bias(self, causal: bool) -> Tensor | None:
        distance = torch.arange(-self.max_distance, self.max_distance + 1, device=self.table.device)
        return self.table[self.bucket(distance, causal)].t()
