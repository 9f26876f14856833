"""Attention of a recurrent decoder to its source: after the recurrence, so that all steps look back at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention.attend import attend, describe
from seqlab.layers.attention.cache import tight
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

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str:
        """What computes it while training, in words."""
        return describe(device, dtype, self.query.out_features)

    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        """See `SequenceLayer.flops`; of a memory of these lengths [B]."""
        weights = self.query.weight.numel() + self.combine.weight.numel()
        pairs = int((lengths * memory_lengths).sum())
        return 6.0 * weights * int(lengths.sum()) + 12.0 * self.query.out_features * pairs

    def remember(self, memory: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return what `core` reads: the rows [T', 1, D'], keys and values in one, as a cache that nobody adds to."""
        return [memory.unsqueeze(-2)] + tight(lengths)  # noqa: RUF005  TorchScript knows no stars

    def core(self, values: Tensor, lengths: Tensor, memory: list[Tensor]) -> Tensor:
        """Return outputs [T, D] of values [T, D] with lengths [B]; `memory` is what `remember` gave."""
        q, rows = self.query(values).unsqueeze(-2), memory[0]
        context = attend(q, rows, rows, lengths, memory[-1], False, None, None, 0.0, memory[-2])
        self.observe(q, lengths, memory)
        return self.combined(context, values)

    def combined(self, context: Tensor, values: Tensor) -> Tensor:
        """Return tanh(W_c [c; h]) [..., D] of contexts [..., 1, D'] and values [..., D]."""
        return torch.tanh(self.combine(torch.cat([context.squeeze(-2), values], -1)))

    def observe(self, q_T1K: Tensor, lengths: Tensor, memory: list[Tensor]) -> None:
        """Show the weights to whoever watches."""
        if is_watched():
            note(self, weights_of(q_T1K, memory[0], lengths, memory[-1], memory[-2]))
