"""Token embedding: from ids to vectors, with positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.positions import Positions, places


class Embedding(nn.Module):
    """One trained vector per token, plus what `positions` adds, then dropout.

    Vectors that were made elsewhere, such as `WordVectors`, may come in the place of tokens, to get the rest of it.
    `weight` [V, D] may be shared with the output layer (Press & Wolf 2017): pass it to the head.

    Raises:
        ValueError: the width is no width.
    """

    def __init__(self, vocabulary: int, width: int, positions: Positions, dropout: float = 0.0) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: expected at least 1")
        self.weight = nn.Parameter(torch.randn(vocabulary, width) * width**-0.5)
        self.positions = positions
        self.dropout = nn.Dropout(dropout)

    def core(self, tokens: Tensor, lengths: Tensor, starts: Tensor | None = None) -> Tensor:
        """Return embeddings [T, D] of tokens [T], or of vectors [T, D]; `starts` [B]: the first positions."""
        x = tokens if tokens.is_floating_point() else nn.functional.embedding(tokens, self.weight)
        return self.dropout(self.positions.embed(x, places(starts, lengths, x)))
