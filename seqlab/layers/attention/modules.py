"""Attention layers: projections before and after `attend`, and the keys and values of what was read before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention.attend import attend, attend_block, in_words
from seqlab.layers.attention.cache import where_of, written
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

    @torch.jit.unused
    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes its attention while training, in words."""
        weighted = self.dropout > 0 or self.positions.bias(self.causal) is not None
        grouped = self.kv_heads != self.heads
        return in_words(device, dtype, self.out.in_features // self.heads, self.window is not None, grouped, weighted)

    @torch.jit.unused
    def flops(self, lengths: Tensor) -> float:
        reach = lengths if self.window is None else lengths.clamp(max=self.window)
        pairs = reach * lengths - reach * (reach - 1) // 2  # causal: query i reads min(i + 1, reach) keys
        if not self.causal:
            pairs = 2 * pairs - lengths
        weights = self.qkv.weight.numel() + self.out.weight.numel()
        return 6.0 * weights * int(lengths.sum()) + 12.0 * self.out.in_features * int(pairs.sum())

    @torch.jit.export
    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`state` and what comes back: keys and values [R, G, K], of a block in a cache (cache.py).

        A state that goes in has three more: the rows of the new tokens, which the cache has made room for, those of all
        tokens, and the lengths of the sequences before.

        Of a right-padded block [N, L, D], which only exported graphs read, keys and values are [N, M, G, K], of which
        those beyond a sequence's length mean nothing, and a state that goes in has only the lengths before besides.
        """
        heads = self.qkv(values).unflatten(-1, [self.heads + 2 * self.kv_heads, -1])
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], -2)
        bias, dropout = self.positions.bias(self.causal), self.dropout if self.training else 0.0
        if lengths is None or values.dim() == 3:  # [N, L, D]: attention is dense as it stands
            positions = torch.arange(values.shape[1], device=values.device)
            at: Tensor | None = None
            if state is not None:
                positions = positions + state[2].unsqueeze(1)
                at = positions
            q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
            if state is not None:
                k, v = written(state[0], k, positions), written(state[1], v, positions)
            block = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            there = None if self.causal else lengths
            out = attend_block(block[0], block[1], block[2], self.causal, self.window, bias, dropout, there, at)
            return self.out(out.transpose(1, 2).flatten(-2)), [] if lengths is None else [k, v]
        positions = places(None if state is None else state[4], lengths, values)
        q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
        key_lengths = lengths
        key_rows: Tensor | None = None
        if state is not None:
            rows = state[2].to(k.device)
            k = state[0].index_copy_(0, rows, k.to(state[0].dtype))
            v = state[1].index_copy_(0, rows, v.to(state[1].dtype))
            key_rows, key_lengths = state[3], state[4] + lengths
        out = attend(q, k, v, lengths, key_lengths, self.causal, self.window, bias, dropout, key_rows)
        return self.out(out.flatten(-2)), [k, v]


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

    @torch.jit.unused
    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes its attention while training, in words."""
        grouped = self.kv_heads != self.heads
        return in_words(device, dtype, self.out.in_features // self.heads, False, grouped, self.dropout > 0)

    @torch.jit.unused
    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        """See `SequenceLayer.flops`; of a memory of these lengths [B]."""
        weights = self.query.weight.numel() + self.out.weight.numel()
        rows = weights * int(lengths.sum()) + self.key_value.weight.numel() * int(memory_lengths.sum())
        return 6.0 * rows + 12.0 * self.out.in_features * int((lengths * memory_lengths).sum())

    @torch.jit.unused
    def forward(self, x: Ragged, memory: Ragged) -> Ragged:
        """[T, D] reads [T', D'], to [T, D]."""
        return x.with_values(self.core(x.values, x.lengths, self.remember(memory.values, memory.lengths)))

    @torch.jit.export
    def remember(self, memory: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """What `core` reads, to be computed once for many steps: keys and values [T', G, K], rows [T'] and lengths [B].

        To reorder, drop or repeat sequences, select them in the last two, as in a cache (cache.py). A dense memory
        [N, L', D'] gives [N, L', G, K], twice; a right-padded one its lengths, too.
        """
        k, v = self.key_value(memory).unflatten(-1, [2 * self.kv_heads, -1]).split(self.kv_heads, -2)
        return [k, v] + where_of(memory, lengths)[-2:]  # noqa: RUF005

    @torch.jit.export
    def core(self, values: Tensor, lengths: Tensor | None, memory: list[Tensor]) -> Tensor:
        """[T, D] with lengths [B], or a dense [N, L, D] with None, and what `remember` gave."""
        q = self.query(values).unflatten(-1, [self.heads, -1])
        dropout = self.dropout if self.training else 0.0
        if lengths is None or values.dim() == 3:
            k, v = memory[0].transpose(1, 2), memory[1].transpose(1, 2)
            there = None if lengths is None else memory[-1]
            out = attend_block(q.transpose(1, 2), k, v, False, None, None, dropout, there).transpose(1, 2)
        else:
            out = attend(q, memory[0], memory[1], lengths, memory[3], False, None, None, dropout, key_rows=memory[2])
            if not torch.jit.is_scripting():
                if is_watched():
                    note(self, weights_of(q, memory[0], lengths, memory[3], memory[2]))
        return self.out(out.flatten(-2))
