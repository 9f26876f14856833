"""What attention looks at, for whoever wants to see it.

Fast kernels never write their weights out. While somebody watches, layers compute them once more, plainly, from the
queries and keys at hand; else nothing is computed, and nothing kept. Scripts and compiled graphs cannot be watched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqlab.layers.heads import at_least_float32


class Seen(NamedTuple):
    """One call of a layer.

    layer    that attended
    weights  of every sequence [H, L, L']: how much each of L queries takes of each of L' rows. The last axis adds up
             to 1, where there is anything to read
    """

    layer: nn.Module
    weights: list[Tensor]


_seen: ContextVar[list[Seen] | None] = ContextVar("seqlab_seen", default=None)


@contextmanager
def watching() -> Iterator[list[Seen]]:
    """Inside the block, and in this thread alone, the list fills with the calls of attention to a memory and of pooling
    by attention, in their order."""
    seen: list[Seen] = []
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def is_watched() -> bool:
    """Whether somebody watches; nobody does while a graph is made."""
    return not torch.compiler.is_compiling() and _seen.get() is not None


def note(layer: nn.Module, weights: list[Tensor]) -> None:
    """Shows a call to who watches; see `Seen`."""
    seen = _seen.get()
    assert seen is not None, "ask is_watched() first"
    seen.append(Seen(layer, [one.detach() for one in weights]))


def weights_of(q_THK: Tensor, k_TGK: Tensor, lengths: Tensor, key_lengths: Tensor, key_rows: Tensor) -> list[Tensor]:
    """softmax(q k^T / sqrt(K)) of every sequence, [H, L, L'], where nothing is masked; see `attend`."""
    k_THK = k_TGK.index_select(0, key_rows.to(k_TGK.device)).repeat_interleave(q_THK.shape[1] // k_TGK.shape[1], 1)
    q_THK, k_THK = at_least_float32(q_THK), at_least_float32(k_THK)
    pairs = zip(q_THK.split(lengths.tolist()), k_THK.split(key_lengths.tolist()), strict=True)
    return [(torch.einsum("lhk,mhk->hlm", q, k) / math.sqrt(q.shape[2])).softmax(2) for q, k in pairs]
