"""What all attention kernels share: the call they are given, views of runs, and the arithmetic of masks and biases.

A place is a token's number in its sequence; the last query stands at the last key. All masks and biases follow from the
distance, place of key - place of query (attend.py has the table).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Call(NamedTuple):
    """The arguments of a kernel besides queries, keys, values and bias; see `attend`. `seed` [1] is that of dropout."""

    kernel: str
    seed: Tensor | None
    lengths: Tensor
    key_lengths: Tensor
    key_rows: Tensor | None
    causal: bool
    window: int | None
    dropout: float


def rows_as_block(x_THK: Tensor, start: int, count: int, length: int) -> Tensor:
    """View the rows of `count` sequences of equal length as [N, H, L, K], the shape that attention kernels read."""
    return x_THK[start : start + count * length].unflatten(0, [count, length]).transpose(1, 2)


def distances(query: int, queries: int, key: int, keys: int, ahead: int, device: torch.device) -> Tensor:
    """Return place of key - place of query, [queries, keys]; `ahead` is the place of the first query of the run."""
    places_L1 = torch.arange(queries, device=device).unsqueeze(1) + (query + ahead)
    return torch.arange(keys, device=device) + key - places_L1


def allowed(distance_LM: Tensor, causal: bool, window: int | None) -> Tensor:
    """Return whether a query reads a key, by their distance; bool, of the same shape."""
    if causal:
        reads = distance_LM <= 0
        if window is not None:
            reads = reads & (distance_LM > -window)
        return reads
    if window is not None:
        return distance_LM.abs() < window
    return torch.ones_like(distance_LM, dtype=torch.bool)


def columns(bias_HR: Tensor, distance_LM: Tensor) -> Tensor:
    """Return the column of the bias for each distance."""
    farthest = bias_HR.shape[1] // 2
    return distance_LM.clamp(-farthest, farthest) + farthest


def bias_at(bias_HR: Tensor, distance_LM: Tensor) -> Tensor:
    """Return what is added to each score, [H, L, M]."""
    return bias_HR[:, columns(bias_HR, distance_LM)]


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which probabilities are summed: float32 or better."""
    return torch.promote_types(dtype, torch.float32)
