"""Attention layers: projections before and after `attend`, and the keys and values of what was read before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention.attend import attend, describe
from seqlab.layers.attention.cache import tight
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.linear import Linear
from seqlab.layers.positions import Positions, places
from seqlab.layers.watch import is_watched, note, weights_of
from seqlab.ragged import Ragged


def checked(width: int, heads: int, kv_heads: int | None, dropout: float) -> int:
    """How many heads keys and values have: `heads`, unless told otherwise.

    Raises:
        ValueError: the numbers do not divide one another, or dropout would leave nothing.
    """
    if width % heads:
        raise ValueError(f"width={width} must be a multiple of heads={heads}")
    kv_heads = heads if kv_heads is None else kv_heads
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"heads={heads} must be a multiple of kv_heads={kv_heads}")
    if not 0 <= dropout < 1:
        raise ValueError(f"attention_dropout={dropout}: expected at least 0 and less than 1")
    return kv_heads


class SelfAttention(SequenceLayer):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2).

    Args:
        width: model width D; the heads share it, K = D / H.
        heads: how many heads H.
        causal: a token reads only itself and those before it.
        positions: acts on queries and keys by its `rotate`, on scores by its `bias`.
        kv_heads: heads G of keys and values, each read by H / G heads (Ainslie et al. 2023); None: as many as `heads`.
        window: the most tokens that a causal token reads, itself included; without causal, those less than that far
            (Beltagy et al. 2020, section 3.1); None: all.
        dropout: share of the attention probabilities zeroed while training; see `attend` for what it costs.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        positions: Positions,
        kv_heads: int | None = None,
        window: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kv_heads = checked(width, heads, kv_heads, dropout)
        if window is not None and window < 1:
            raise ValueError(f"window={window}: expected at least 1, or null")
        self.heads = heads
        self.causal = causal
        self.positions = positions
        self.window = window
        self.dropout = dropout
        self.qkv = Linear(width, (heads + 2 * self.kv_heads) * (width // heads))
        self.out = Linear(width, width)

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes its attention while training, in words."""
        weighted = self.dropout > 0 or self.positions.bias(self.causal) is not None
        grouped = self.kv_heads != self.heads
        return describe(device, dtype, self.out.in_features // self.heads, self.window is not None, grouped, weighted)

    def flops(self, lengths: Tensor) -> float:
        reach = lengths if self.window is None else lengths.clamp(max=self.window)
        pairs = reach * lengths - reach * (reach - 1) // 2  # causal: query i reads min(i + 1, reach) keys
        if not self.causal:
            pairs = 2 * pairs - lengths
        weights = self.qkv.weight.numel() + self.out.weight.numel()
        return 6.0 * weights * int(lengths.sum()) + 12.0 * self.out.in_features * int(pairs.sum())

    def core(self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return outputs [T, D], and keys and values [R, G, K] of the rows in a cache (cache.py).

        A state that goes in has three more tensors: the rows of the new tokens, which the cache has made room for, the
        rows of all tokens, and the lengths of the sequences before.
        """
        q, k, v = self.heads_of(values)
        positions = places(None if state is None else state[4], lengths, values)
        q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
        key_lengths = lengths
        key_rows: Tensor | None = None
        if state is not None:
            rows = state[2].to(k.device)
            k = state[0].index_copy_(0, rows, k.to(state[0].dtype))
            v = state[1].index_copy_(0, rows, v.to(state[1].dtype))
            key_rows, key_lengths = state[3], state[4] + lengths
        bias, dropout = self.positions.bias(self.causal), self.dropout if self.training else 0.0
        out = attend(q, k, v, lengths, key_lengths, self.causal, self.window, bias, dropout, key_rows)
        return self.out(out.flatten(-2)), [k, v]

    def heads_of(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [..., H, K], keys and values [..., G, K] of rows [..., D]."""
        heads = self.qkv(values).unflatten(-1, [self.heads + 2 * self.kv_heads, -1])
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], -2)
        return q, k, v


class CrossAttention(nn.Module):
    """Attention from one batch of sequences to another, the memory (Vaswani et al. 2017, section 3.2.3).

    Sequence b of the one reads all of sequence b of the other; where that is empty, attention gives zeros.

    Args:
        width, heads, kv_heads, dropout: see `SelfAttention`.
        memory_width: width of the memory; None: `width`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        memory_width: int | None = None,
        kv_heads: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kv_heads = checked(width, heads, kv_heads, dropout)
        self.heads = heads
        self.dropout = dropout
        self.query = Linear(width, width)
        self.key_value = Linear(memory_width or width, 2 * self.kv_heads * (width // heads))
        self.out = Linear(width, width)

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes its attention while training, in words."""
        grouped = self.kv_heads != self.heads
        return describe(device, dtype, self.out.in_features // self.heads, False, grouped, self.dropout > 0)

    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        """See `SequenceLayer.flops`; of a memory of these lengths [B]."""
        weights = self.query.weight.numel() + self.out.weight.numel()
        rows = weights * int(lengths.sum()) + self.key_value.weight.numel() * int(memory_lengths.sum())
        return 6.0 * rows + 12.0 * self.out.in_features * int((lengths * memory_lengths).sum())

    def forward(self, x: Ragged, memory: Ragged) -> Ragged:
        """[T, D] reads [T', D'], to [T, D]."""
        return x.with_values(self.core(x.values, x.lengths, self.remember(memory.values, memory.lengths)))

    def remember(self, memory: Tensor, lengths: Tensor) -> list[Tensor]:
        """Compute what `core` reads, once for many steps: keys and values [T', G, K], rows [T'] and lengths [B].

        To reorder, drop or repeat sequences, select them in the last two, as in a cache (cache.py).
        """
        k, v = self.keys_and_values_of(memory)
        return [k, v] + tight(lengths)[-2:]  # noqa: RUF005  TorchScript knows no stars

    def keys_and_values_of(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [..., G, K] of rows [..., D']."""
        k, v = self.key_value(memory).unflatten(-1, [2 * self.kv_heads, -1]).split(self.kv_heads, -2)
        return k, v

    def core(self, values: Tensor, lengths: Tensor, memory: list[Tensor]) -> Tensor:
        """Return outputs [T, D] of values [T, D] with lengths [B]; `memory` is what `remember` gave."""
        q = self.query(values).unflatten(-1, [self.heads, -1])
        dropout = self.dropout if self.training else 0.0
        out = attend(q, memory[0], memory[1], lengths, memory[3], False, None, None, dropout, memory[2])
        self.observe(q, lengths, memory)
        return self.out(out.flatten(-2))

    def observe(self, q_THK: Tensor, lengths: Tensor, memory: list[Tensor]) -> None:
        """Show the weights to whoever watches."""
        if is_watched():
            note(self, weights_of(q_THK, memory[0], lengths, memory[3], memory[2]))
