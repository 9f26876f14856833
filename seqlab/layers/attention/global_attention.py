"""Attention of a recurrent decoder to its source: after the recurrence, so that all steps look back at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention.attend import attend, attend_block, in_words
from seqlab.layers.attention.cache import where_of
from seqlab.layers.linear import Linear
from seqlab.layers.watch import is_watched, note, weights_of


class GlobalAttention(nn.Module):
    """Global attention with the score "general" (Luong, Pham & Manning 2015, section 3.1).

        a = softmax(h W s / sqrt(D'))        over all rows s [D'] of the memory, for each hidden row h [D]
        c = sum of a s
        h~ = tanh(W_c [c; h])

    The root, which the paper has not, keeps the softmax soft at the start. Where the memory is empty c is 0.

    Args:
        width: D, of the hidden rows that come in and of those that go out.
        memory_width: D', of the memory.
    """

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.query = Linear(width, memory_width, bias=False)
        self.combine = Linear(memory_width + width, width)

    @torch.jit.unused
    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes it while training, in words."""
        return in_words(device, dtype, self.query.out_features)

    @torch.jit.unused
    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        """See `SequenceLayer.flops`; of a memory of these lengths [B]."""
        weights = self.query.weight.numel() + self.combine.weight.numel()
        pairs = int((lengths * memory_lengths).sum())
        return 6.0 * weights * int(lengths.sum()) + 12.0 * self.query.out_features * pairs

    @torch.jit.export
    def remember(self, memory: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """What `core` reads: the rows [T', 1, D'] as a cache (cache.py) that nobody adds to; or a dense [N, L', 1, D'],
        of a right-padded memory with its lengths.

        They are keys and values in one.
        """
        return [memory.unsqueeze(-2)] + where_of(memory, lengths)  # noqa: RUF005

    @torch.jit.export
    def core(self, values: Tensor, lengths: Tensor | None, memory: list[Tensor]) -> Tensor:
        """[T, D] with lengths [B], or a dense [N, L, D] with None, and what `remember` gave."""
        q, rows = self.query(values).unsqueeze(-2), memory[0]
        if lengths is None or values.dim() == 3:
            block = rows.transpose(1, 2)
            there = None if lengths is None else memory[-1]
            context = attend_block(q.transpose(1, 2), block, block, False, key_lengths=there).transpose(1, 2)
        else:
            context = attend(q, rows, rows, lengths, memory[-1], False, key_rows=memory[-2])
            if not torch.jit.is_scripting():
                if is_watched():
                    note(self, weights_of(q, rows, lengths, memory[-1], memory[-2]))
        return torch.tanh(self.combine(torch.cat([context.squeeze(-2), values], -1)))
