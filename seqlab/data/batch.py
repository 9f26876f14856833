"""A batch: examples of one optimizer step, or a part of them, as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from seqlab.ragged import IGNORED, Layout, Ragged


@dataclass(frozen=True)
class Batch:
    """Ragged inputs and targets with what accounting needs to know of each example.

    tokens     Ragged [T] int64, what the model reads
    targets    Ragged [T'], what it should answer: int64, the next token of every token, a class per sequence or
               several, a tag per word, the tokens to write; float32 where numbers are predicted; -100 is not predicted
    ids        [B] int64, the example's number in its split, on the CPU
    num_bytes  [B] int64, UTF-8 bytes of the original text that the targets stand for, on the CPU
    extras     further inputs by name, Ragged int64:
               prefix  [T'] what a decoder reads while it writes the targets
               pieces  [W] how many of the tokens each word has
               words   [W] the word itself, in a vocabulary of words
    """

    tokens: Ragged
    targets: Ragged
    ids: Tensor
    num_bytes: Tensor
    extras: Mapping[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def layouts(self) -> list[Layout]:
        """Of all that is read token by token: the tokens, and what a decoder reads."""
        prefix = self.extras.get("prefix")
        return [self.tokens.layout] if prefix is None else [self.tokens.layout, prefix.layout]

    @cached_property
    def tokens_per_example(self) -> Tensor:
        """[B] int64: how many tokens of each example are read, which is what budgets count."""
        return torch.stack([layout.lengths for layout in self.layouts]).sum(0)

    @cached_property
    def num_tokens(self) -> int:
        """How many tokens are read."""
        return int(self.tokens_per_example.sum())

    @cached_property
    def predicted(self) -> int:
        """How many targets are predicted."""
        values = self.targets.values
        return len(values) if values.is_floating_point() else int((values != IGNORED).sum())

    def select(self, indices: Tensor) -> Batch:
        """The chosen examples, in the order given."""
        extras = {name: extra.select(indices) for name, extra in self.extras.items()}
        tokens, targets = self.tokens.select(indices), self.targets.select(indices)
        return Batch(tokens, targets, self.ids[indices], self.num_bytes[indices], extras)

    def split(self, micro_tokens: int | None) -> list[Batch]:
        """Consecutive parts of at most `micro_tokens` tokens each; None or a budget large enough gives `[self]`.

        Raises:
            ValueError: one example alone is longer than the budget.
        """
        if micro_tokens is None or self.num_tokens <= micro_tokens:
            return [self]
        if int(self.tokens_per_example.max()) > micro_tokens:
            row = int(self.tokens_per_example.argmax())
            raise ValueError(
                f"example {int(self.ids[row])} has {int(self.tokens_per_example[row])} tokens and micro_tokens is "
                f"{micro_tokens}"
            )
        bounds, used = [0], 0
        for i, length in enumerate(self.tokens_per_example.tolist()):
            if used + length > micro_tokens:
                bounds.append(i)
                used = 0
            used += length
        bounds.append(len(self))
        return [self.select(torch.arange(a, b)) for a, b in pairwise(bounds)]

    def to(self, device: torch.device | str) -> Batch:
        """Everything that is computed with on another device; how many pieces a word has plans loops, and stays."""
        extras = {name: extra if name == "pieces" else extra.to(device) for name, extra in self.extras.items()}
        return Batch(self.tokens.to(device), self.targets.to(device), self.ids, self.num_bytes, extras)
