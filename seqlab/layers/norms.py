"""Norms over the features of each token."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["layer", "rms"]


def make_norm(width: int, kind: Norm) -> nn.Module:
    """Make a norm: LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=1e-5) if kind == "rms" else nn.LayerNorm(width)
