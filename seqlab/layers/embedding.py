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

    @torch.jit.export
    def core(self, tokens: Tensor, lengths: Tensor | None, starts: Tensor | None = None) -> Tensor:
        """[T], or vectors [T, D], with lengths [B] to [T, D], or [N, L] with None to [N, L, D]; `starts` [B]: first
        positions. Of a right-padded [N, L] lengths do not matter."""
        x = tokens if tokens.is_floating_point() else nn.functional.embedding(tokens, self.weight)
        if lengths is None or x.dim() == 3:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
            if starts is not None:
                positions = positions + starts.unsqueeze(1)
        else:
            positions = places(starts, lengths, x)
        return self.dropout(self.positions.embed(x, positions))
