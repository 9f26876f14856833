"""A batch: examples of one optimizer step, or a part of them, as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from seqlab.ragged import Ragged


@dataclass(frozen=True)
class Batch:
    """Ragged inputs and targets with what accounting needs to know of each example.

    tokens   Ragged [T] int64, what the model reads
    targets  Ragged [T'] int64, what it should answer; for the next token, shifted inside each sequence
    ids      [B] int64, the example's number in its split, on the CPU
    bytes    [B] int64, UTF-8 bytes of the original text that the targets stand for, on the CPU
    """

    tokens: Ragged
    targets: Ragged
    ids: Tensor
    bytes: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, indices: Tensor) -> Batch:
        """The chosen examples, in the order given."""
        return Batch(self.tokens.select(indices), self.targets.select(indices), self.ids[indices], self.bytes[indices])

    def split(self, micro_tokens: int | None) -> list[Batch]:
        """Consecutive parts of at most `micro_tokens` tokens each; None or a budget large enough gives `[self]`.

        Raises:
            ValueError: one sequence alone is longer than the budget.
        """
        lengths = self.tokens.lengths
        if micro_tokens is None or self.tokens.layout.total <= micro_tokens:
            return [self]
        if self.tokens.layout.longest > micro_tokens:
            row = int(lengths.argmax())
            raise ValueError(
                f"example {int(self.ids[row])} has {int(lengths[row])} tokens and micro_tokens is {micro_tokens}"
            )
        bounds, used = [0], 0
        for i, length in enumerate(lengths.tolist()):
            if used + length > micro_tokens:
                bounds.append(i)
                used = 0
            used += length
        bounds.append(len(self))
        return [self.select(torch.arange(a, b)) for a, b in pairwise(bounds)]

    def to(self, device: torch.device | str) -> Batch:
        """The tokens and targets on another device."""
        return Batch(self.tokens.to(device), self.targets.to(device), self.ids, self.bytes)
