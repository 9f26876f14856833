"""A masked language model: an encoder that reads both ways, and a head that scores the tokens hidden from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.linear import Linear
from seqlab.models.encoders import Encoder
from seqlab.ragged import Ragged


class MaskedLanguageModel(nn.Module):
    """Hidden vectors of some tokens, and the head that scores what stands there (Devlin et al. 2019, section 3.1).

    Where the mask token is read, whose id `mask` is one beyond the vocabulary, its vector takes the place of the
    embedding. So the encoder is that of any other task, and the mask is never an answer.

    Args:
        encoder: must not be causal.
        vocabulary: how many tokens there are.
        tied: share the embedding's weight with the head (Press & Wolf 2017); hidden vectors of another width, such as
            those of a recurrence both ways, are mapped to that of the embedding.
        label_smoothing: see `SoftmaxHead`.

    Raises:
        ValueError: the encoder is causal, or the smoothing is not a share below 1.
    """

    def __init__(self, encoder: Encoder, vocabulary: int, tied: bool = True, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if encoder.causal:
            raise ValueError(
                "a masked language model reads what stands on both sides of a hidden token: set model.causal=false"
            )
        self.encoder, self.mask = encoder, vocabulary
        self.max_length = encoder.max_length
        weight = encoder.embedding.weight
        width = weight.shape[1]
        self.mask_vector = nn.Parameter(torch.randn(width) * width**-0.5)
        mapped = tied and encoder.output_size != width
        self.map = Linear(encoder.output_size, width, bias=False) if mapped else None
        self.head = SoftmaxHead(
            width if tied else encoder.output_size, vocabulary, weight if tied else None, label_smoothing
        )

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, per token read: names and weights."""
        return self.encoder.costs

    def core(self, tokens: Tensor, lengths: Tensor, rows_N: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return hidden vectors for the head, and the sum over all tokens of each of `costs`.

        Args:
            tokens, lengths: [T] and [B]; mask tokens are among the tokens.
            rows_N: the rows to return, [N, D]; None: all, [T, D].
        """
        hidden_T1 = (tokens == self.mask).unsqueeze(-1)
        known_TD = nn.functional.embedding(tokens.clamp(max=self.mask - 1), self.encoder.embedding.weight)
        hidden_TD, costs, _ = self.encoder.read(torch.where(hidden_T1, self.mask_vector, known_TD), lengths)
        hidden_ND = hidden_TD if rows_N is None else hidden_TD[rows_N]
        return hidden_ND if self.map is None else self.map(hidden_ND), costs

    def encode(self, tokens: Ragged, rows_N: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Whole sequences, with mask tokens among them: hidden [N, D] of the rows asked for, which the head takes, and
        the sum over all tokens of each of `costs`."""
        return self.core(tokens.values, tokens.lengths, rows_N)

    def forward(self, tokens: Ragged, rows_N: Tensor) -> Tensor:
        """Hidden [N, D] of the rows asked for, for `head`."""
        return self.encode(tokens, rows_N)[0]

    def flops(self, lengths: Tensor, rows: int) -> float:
        """Useful FLOPs of a training step in which so many rows are predicted; see `SequenceLayer.flops`."""
        mapped = 0 if self.map is None else self.map.weight.numel()
        return self.encoder.flops(lengths) + 6.0 * mapped * rows + self.head.flops(rows)
