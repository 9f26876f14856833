"""A tagger: a label for every word of a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.layers.crf import CRFHead
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.pooling import make_pooling
from seqlab.layers.word_vectors import WordVectors
from seqlab.models.encoders import Encoder
from seqlab.ragged import Layout, Ragged


class Tagger(nn.Module):
    """Hidden vectors of words, and a head that turns them into tags. There are two ways to a word:

        pieces   the encoder reads all pieces of a sentence, and a word is the output at its first one
                 (Devlin et al. 2019, section 5.3), at its last one, or the mean over them
        words    `word_vectors` makes a vector of each word's pieces, and the encoder reads those

    Args:
        encoder: reads both ways, or tags are chosen without knowing what follows.
        labels: how many tags there are.
        head: "crf", which knows the neighbours of a tag, or "softmax".
        pooling: of the pieces of a word: "first", "last" or "mean"; without `word_vectors`.
        word_vectors: makes them, called `word_vectors(width=...)`; None: the encoder reads pieces.
        allowed: see `CRFHead`, which alone heeds it.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: int,
        head: Literal["crf", "softmax"] = "crf",
        pooling: Literal["first", "last", "mean"] = "first",
        word_vectors: Callable[..., WordVectors] | None = None,
        allowed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.word_vectors = word_vectors and word_vectors(width=encoder.embedding.weight.shape[1])
        self.pooling = make_pooling(pooling, encoder.output_size)
        width = encoder.output_size
        self.head = CRFHead(width, labels, allowed) if head == "crf" else SoftmaxHead(width, labels)

    @property
    def max_length(self) -> int | None:
        """The most pieces of a sentence whose positions are known; None: any, or it is words that have positions."""
        return self.encoder.max_length if self.word_vectors is None else None

    @property
    def max_words(self) -> int | None:
        """The most words whose positions are known, where it is words that have positions; None: any."""
        return None if self.word_vectors is None else self.encoder.max_length

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, for everything in `read`: names and weights."""
        return self.encoder.costs

    def read(self, tokens: Layout, pieces: Layout) -> Layout:
        """What the encoder reads of a batch: its pieces or its words."""
        return tokens if self.word_vectors is None else pieces

    def core(
        self,
        tokens: Tensor,
        lengths: Tensor,
        pieces_W: Tensor,
        word_lengths: Tensor,
        words_W: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `encode`; the layouts of tokens and of words are here their lengths [B] each."""
        if self.word_vectors is None:
            hidden_TD, costs, _ = self.encoder.read(tokens, lengths)
            return self.pooling.core(hidden_TD, pieces_W), costs
        pieces_TD = F.embedding(tokens, self.encoder.embedding.weight)
        hidden_WD, costs, _ = self.encoder.read(self.word_vectors.core(pieces_TD, pieces_W, words_W), word_lengths)
        return hidden_WD, costs

    def encode(self, tokens: Ragged, pieces: Ragged, words: Ragged | None = None) -> tuple[Ragged, dict[str, Tensor]]:
        """Hidden vectors of words [W, D], and the sum over what was read of each of `costs`.

        Args:
            tokens: [T] int64, the pieces of every sentence.
            pieces: [W] int64, how many of them each word has, best on the CPU.
            words: [W] int64, ids of the words; needed only by word vectors that have a vocabulary of words.

        Raises:
            ValueError: the words do not have as many pieces as there are.
        """
        lengths_W = pieces.values.cpu()
        if int(lengths_W.sum()) != tokens.layout.total:
            raise ValueError(f"the words have {int(lengths_W.sum())} pieces, and there are {tokens.layout.total}")
        words_W = None if words is None else words.values
        hidden_WD, costs = self.core(tokens.values, tokens.lengths, lengths_W, pieces.lengths, words_W)
        return pieces.with_values(hidden_WD), costs

    def forward(self, tokens: Ragged, pieces: Ragged, words: Ragged | None = None) -> Ragged:
        """Hidden vectors of words [W, D], for `head`."""
        return self.encode(tokens, pieces, words)[0]

    def flops(self, tokens: Layout, pieces: Ragged) -> float:
        """Useful FLOPs of a training step; see `SequenceLayer.flops`."""
        own = 0.0 if self.word_vectors is None else self.word_vectors.flops(pieces.values.cpu())
        return own + self.encoder.flops(self.read(tokens, pieces.layout).lengths) + self.head.flops(pieces.layout.total)
