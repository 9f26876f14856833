"""What every layer that reads sequences has in common: one equation, `core`, and three ways to call it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.ragged import Ragged


class SequenceLayer(nn.Module):
    """A layer from Ragged to Ragged whose arithmetic is written once, in `core`, on plain tensors.

    `core(values, lengths, state)` is what `torch.jit.script` compiles. `values` is [T, D] with `lengths` [B], or, where
    `lengths` is None, a dense [N, L, D] block of sequences of one length, which is what `torch.export` takes. `state`
    carries what earlier tokens of the same sequences left behind (None at their beginning), as a list of tensors.
    """

    @torch.jit.unused
    def forward(self, x: Ragged) -> Ragged:
        """[T, D] to [T, D'], every sequence from its beginning."""
        return x.with_values(self.core(x.values, x.lengths, None)[0])

    def core(self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError

    @torch.jit.unused
    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a forward and a backward pass over sequences of these lengths [B].

        Only products count, 2 m n k each: neither padding nor what a kernel computes again, and nothing elementwise. A
        weight costs 6 per token: 2 forward, 2 for its own gradient, 2 for that of its input. The gradient of an input
        counts, because below there is a trained embedding, and so does that of an initial state.
        """
        raise NotImplementedError

    @torch.jit.unused
    def equal(self, x_NLD: Tensor) -> Tensor:
        """The same layer on N sequences of one length, [N, L, D] to [N, L, D']."""
        return self.core(x_NLD, None, None)[0]
