"""A language model: a causal encoder and a head that scores the next token."""

from __future__ import annotations

from torch import Tensor, nn

from seqlab.layers.heads import SoftmaxHead
from seqlab.models.encoders import Encoder
from seqlab.models.state import State
from seqlab.ragged import Ragged


class LanguageModel(nn.Module):
    """Hidden vectors of a causal encoder, and the head that turns each into scores for the token after it.

    Args:
        encoder: must be causal.
        vocabulary: how many tokens there are.
        tied: share the embedding's weight with the head (Press & Wolf 2017).
        label_smoothing: see `SoftmaxHead`; evaluation is without, so that its perplexity is one.

    Raises:
        ValueError: the encoder is not causal, tied weights do not fit, or the smoothing is not a share below 1.
    """

    def __init__(self, encoder: Encoder, vocabulary: int, tied: bool = True, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not encoder.causal:
            raise ValueError("a language model must not see the tokens it predicts: set model.causal=true")
        self.encoder = encoder
        self.max_length = encoder.max_length
        weight = encoder.embedding.weight if tied else None
        self.head = SoftmaxHead(encoder.output_size, vocabulary, weight, label_smoothing)

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, per token read: names and weights."""
        return self.encoder.costs

    def encode(self, tokens: Ragged) -> tuple[Ragged, dict[str, Tensor]]:
        """Whole sequences, as training reads them: hidden [T, D], and the sum over the tokens of each of `costs`."""
        return self.encoder.encode(tokens)

    def forward(self, tokens: Ragged, state: State | None = None) -> tuple[Ragged, State]:
        """Tokens [T] to hidden [T, D], and the state to continue from."""
        return self.encoder(tokens, state)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token of every sequence, [B] to hidden [B, D]."""
        return self.encoder.step(tokens_B, state)

    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a training step in which every token predicts the next; see `SequenceLayer.flops`."""
        return self.encoder.flops(lengths) + self.head.flops(int(lengths.sum()))
