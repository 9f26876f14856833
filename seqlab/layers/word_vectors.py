"""Word vectors made of the pieces that spell a word, so that words never seen before have one too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqlab.layers.linear import Linear
from seqlab.layers.pooling import LastPooling
from seqlab.layers.recurrent.cells import Cell
from seqlab.layers.recurrent.stack import RecurrentStack


class WordVectors(nn.Module):
    """One vector per word: what its spelling says and, for words in a vocabulary, what the word itself does.

    A recurrence reads every word as a sequence of its own, forwards and backwards; where either ends is its spelling
    (Ling et al. 2015, section 3; Lample et al. 2016, section 4.1). A trained vector of the word is joined to it, and a
    linear map makes one of both.

    Args:
        width: of the pieces' vectors that come in, and of the words' that come out: D.
        cell: makes one cell, called `cell(input_size, hidden_size)`; see seqlab/layers/recurrent/cells.py.
        spelling: width of each direction of the recurrence.
        word_vocabulary: how many words have a vector of their own, id 0 standing for all others; None: none has.
        word_dropout: share of the words that are read as id 0 while training: it teaches the vector of the unknown, and
            not to lean on known words alone.

    Raises:
        ValueError: the dropout is not a share below 1, or the spelling has no width.
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        width: int,
        cell: Callable[[int, int], Cell],
        spelling: int = 64,
        word_vocabulary: int | None = None,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout={word_dropout}: expected at least 0 and less than 1")
        if spelling < 1:
            raise ValueError(f"spelling={spelling}: expected at least 1")
        self.recurrence = RecurrentStack(width, spelling, cell, bidirectional=True)
        self.ends = LastPooling(backward=spelling)
        table = None if word_vocabulary is None else nn.Parameter(torch.randn(word_vocabulary, width) * width**-0.5)
        self.register_parameter("weight", table)
        self.out = Linear(2 * spelling + (0 if table is None else width), width)
        self.word_dropout = word_dropout

    def core(self, pieces_TD: Tensor, lengths_W: Tensor, words_W: Tensor | None = None) -> Tensor:
        """Vectors of pieces [T, D], how many each word has [W] (on the CPU), and ids of words [W] to [W, D]."""
        vectors_WD = self.ends.core(self.recurrence.core(pieces_TD, lengths_W, None)[0], lengths_W)
        if self.weight is not None:
            if words_W is None:
                raise ValueError("these word vectors have a vocabulary of words, and no word ids were given")
            if self.training and self.word_dropout > 0:
                unknown_W = torch.rand(words_W.shape, device=words_W.device) < self.word_dropout
                words_W = words_W.masked_fill(unknown_W, 0)
            vectors_WD = torch.cat([vectors_WD, nn.functional.embedding(words_W, self.weight)], 1)
        return self.out(vectors_WD)

    def flops(self, lengths_W: Tensor) -> float:
        """Useful FLOPs of a training step, see `SequenceLayer.flops`."""
        return self.recurrence.flops(lengths_W) + 6.0 * self.out.weight.numel() * len(lengths_W)
