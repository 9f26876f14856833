"""The base of every layer that reads sequences: one equation, `core`, on plain tensors."""

from __future__ import annotations

from torch import Tensor, nn

from seqlab.ragged import Ragged


class SequenceLayer(nn.Module):
    """A layer from Ragged to Ragged whose arithmetic is written once, in `core`.

    `core` stays within the part of Python that TorchScript compiles. The forms that exported graphs need, dense and
    right-padded blocks, are in seqlab/exporting/padded.py; no layer knows them.
    """

    def forward(self, x: Ragged) -> Ragged:
        """Read every sequence from its beginning: [T, D] to [T, D']."""
        return x.with_values(self.core(x.values, x.lengths)[0])

    def core(self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return new values [T, D'] and the state after each sequence.

        Args:
            values: [T, D], sequence after sequence.
            lengths: [B] int64, on the CPU.
            state: what earlier tokens of the same sequences left behind; None at their beginning.
        """
        raise NotImplementedError

    def flops(self, lengths: Tensor) -> float:
        """Return the useful FLOPs of a forward and a backward pass over sequences of these lengths [B].

        Only products count, 2 m n k each: neither padding nor what a kernel computes again, and nothing elementwise. A
        weight costs 6 per token: 2 forward, 2 for its own gradient, 2 for that of its input. The gradient of an input
        counts, because below there is a trained embedding, and so does that of an initial state.
        """
        raise NotImplementedError
