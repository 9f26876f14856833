"""The second part of a Transformer block: two linear maps, or three with a gate."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from seqlab.layers.linear import Linear

Activation = Literal["gelu", "swiglu"]


class SwiGLU(nn.Module):
    """silu(a) * b, for the two halves of what comes in (Shazeer 2020, equation 6): [..., 2 M] to [..., M]."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return nn.functional.silu(a) * b


def make_mlp(width: int, hidden: int, activation: Activation) -> nn.Sequential:
    """Make the map from D to D through `hidden` values; a gate doubles what the first map gives."""
    if activation == "swiglu":
        return nn.Sequential(Linear(width, 2 * hidden), SwiGLU(), Linear(hidden, width))
    return nn.Sequential(Linear(width, hidden), nn.GELU(), Linear(hidden, width))
