"""A classifier: what is to be said of a whole sequence, or of a pair of texts in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from seqlab.layers.heads import RegressionHead, SigmoidHead, SoftmaxHead
from seqlab.layers.pooling import PoolingKind, make_pooling
from seqlab.models.encoders import Encoder
from seqlab.ragged import Ragged


class Classifier(nn.Module):
    """One vector per sequence, and a head that answers from it. Two texts are read as one sequence, joined by a mark.

    Args:
        encoder: reads both ways, or the vectors of tokens do not know what follows.
        labels: how many labels there are; None where a number is predicted.
        answer: "one" label, any number of labels ("many"), or a "number".
        pooling: the "mean" over the tokens; the "max" of each feature; the "first" token; the "last" one, or of a
            recurrence that reads both ways the final state of either; "attention", a mean weighted by a trained query.
        dropout: share of the features of the pooled vector zeroed while training.
        label_smoothing: of one label; see `SoftmaxHead`.
        class_weights: of labels; see `SoftmaxHead` and `SigmoidHead`.

    Raises:
        ValueError: there are no labels to answer with, or an option does not go with the kind of answer.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: int | None,
        answer: Literal["one", "many", "number"],
        pooling: PoolingKind = "mean",
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if label_smoothing and answer != "one":
            raise ValueError(f"label_smoothing={label_smoothing} needs answer=one, got answer={answer}")
        if class_weights is not None and answer == "number":
            raise ValueError("class_weights need classes, got answer=number")
        width = encoder.output_size
        self.encoder = encoder
        self.pooling = make_pooling(pooling, width, encoder.backward)
        self.dropout = nn.Dropout(dropout)
        self.head: SoftmaxHead | SigmoidHead | RegressionHead
        if answer == "number":
            self.head = RegressionHead(width)
        elif labels is None:
            raise ValueError(f"answer={answer} needs labels, and the data has none")
        elif answer == "many":
            self.head = SigmoidHead(width, labels, class_weights)
        else:
            self.head = SoftmaxHead(width, labels, None, label_smoothing, class_weights)

    @property
    def max_length(self) -> int | None:
        """The longest sequence whose positions are known; None: any."""
        return self.encoder.max_length

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, per token read: names and weights."""
        return self.encoder.costs

    def core(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a vector per sequence [B, D] of tokens [T] with lengths [B], and the sum over the tokens of each of
        `costs`."""
        hidden_TD, costs, _ = self.encoder.read(tokens, lengths)
        return self.dropout(self.pooling.core(hidden_TD, lengths)), costs

    def answer(self, pooled_BD: Tensor) -> Tensor:
        """Return the probability of each label [B, C], or numbers [B]."""
        return self.head.predictions(pooled_BD)

    def encode(self, tokens: Ragged) -> tuple[Tensor, dict[str, Tensor]]:
        """A vector per sequence [B, D], and the sum over the tokens of each of `costs`."""
        return self.core(tokens.values, tokens.lengths)

    def forward(self, tokens: Ragged) -> Tensor:
        """A vector per sequence [B, D], for `head`."""
        return self.encode(tokens)[0]

    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a training step; see `SequenceLayer.flops`."""
        return self.encoder.flops(lengths) + self.pooling.flops(lengths) + self.head.flops(len(lengths))
