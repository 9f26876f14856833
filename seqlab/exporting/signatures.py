"""What a trained model is called by outside: plain tensors in, plain tensors out. One module for each kind of model.

Each holds the trained model itself and calls its `core`; no equation is written again here. There are two ways in:

    ragged   tokens [T] int64, sequence after sequence, and offsets [B + 1] int64: sequence i is
             tokens[offsets[i] : offsets[i + 1]], as in seqlab/ragged.py
    padded   ids [B, L] int64 and mask [B, L], which is not 0 where there is a token, wherever in its row that is; what
             stands in other places is never read

Nothing is computed on padding either way: the padded way gathers the tokens and goes the ragged one. A sequence of
length 0 is legal, and so is a batch of none. Offsets, lengths and what else plans loops lies on the CPU.

`torch.jit.script` compiles these modules; they record no gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqlab.layers.pooling import LastPooling
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import IGNORED, offsets_of, segments_of


def lengths_of(tokens: Tensor, offsets: Tensor) -> Tensor:
    """[B] int64, on the CPU.

    Raises:
        ValueError: they do not go from 0 to the number of tokens, never downwards.
    """
    offsets = offsets.to("cpu")
    lengths = torch.diff(offsets)
    total = tokens.shape[0]
    if offsets.shape[0] == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((lengths < 0).any()):
        raise ValueError(f"offsets must go from 0 to the number of tokens, {total}, and never downwards")
    return lengths


def gathered(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """tokens [T] and offsets [B + 1] of a padded batch."""
    there = mask != 0
    return ids[there], offsets_of(there.sum(1).to("cpu"))


class ClassifierSignature(nn.Module):
    """Texts to what is said of each: the probability of every label [B, C], or, of a model of numbers, a number [B]."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """The ragged way."""
        with torch.no_grad():
            return self.model.answer(self.model.core(tokens, lengths_of(tokens, offsets))[0])

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The padded way."""
        tokens, offsets = gathered(ids, mask)
        return self.forward(tokens, offsets)


class TaggerSignature(nn.Module):
    """Sentences in pieces to the tags of their words: labels int64, of the likeliest path where there is a CRF, and the
    probability of every label.

    `starts` is not 0 where a word begins; the first piece of a sentence begins one. `words`, the number of each word,
    is only needed by a model that has a vocabulary of words.
    """

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model
        self.ignored = IGNORED  # TorchScript reads no globals

    def forward(
        self, tokens: Tensor, offsets: Tensor, starts: Tensor, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The ragged way: starts [T] and words [W] to labels [W] and probabilities [W, C], word after word."""
        with torch.no_grad():
            lengths = lengths_of(tokens, offsets)
            begins = (starts != 0).to("cpu")
            first = offsets.to("cpu")[:-1][lengths > 0]
            if not bool(begins[first].all()):
                raise ValueError("the first piece of every sentence begins a word: starts must not be 0 there")
            pieces_W = torch.diff(begins.nonzero().flatten(), append=torch.tensor([tokens.shape[0]]))
            word_lengths = torch.bincount(segments_of(lengths)[begins], minlength=lengths.shape[0])
            hidden_WD, _ = self.model.core(tokens, lengths, pieces_W, word_lengths, words)
            labels_W = self.model.head.decode(hidden_WD, word_lengths)
            return labels_W, self.model.head.probabilities(hidden_WD, word_lengths)

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor, starts: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The padded way: starts [B, L], and words [B, L] read where one begins, to labels [B, L] and probabilities
        [B, L, C], which lie there too; elsewhere labels are -100 and probabilities 0."""
        tokens, offsets = gathered(ids, mask)
        begins = (mask != 0) & (starts != 0)
        words_W: Tensor | None = None
        if words is not None:
            words_W = words[begins]
        labels_W, probabilities_WC = self.forward(tokens, offsets, starts[mask != 0], words_W)
        labels = torch.full_like(ids, self.ignored)
        labels[begins] = labels_W
        probabilities = probabilities_WC.new_zeros([ids.shape[0], ids.shape[1], probabilities_WC.shape[1]])
        probabilities[begins] = probabilities_WC
        return labels, probabilities


class LanguageModelSignature(nn.Module):
    """Texts to the scores [B, V], before the softmax, of the token that follows each.

    A text begins with the end mark. Where a sequence brings no token its scores mean nothing, and its state stays.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.last = LastPooling()

    def forward(self, tokens: Tensor, offsets: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The ragged way, and the state after the tokens. `state` is what the call before gave, at the beginning an
        empty list; a call continues it by any number of tokens of each sequence."""
        with torch.no_grad():
            lengths = lengths_of(tokens, offsets)
            past: list[Tensor] | None = None
            if len(state) > 0:
                past = state
            hidden_TD, after = self.model.encoder.core(tokens, lengths, past)
            return self.model.head.scores(self.last.core(hidden_TD, lengths)), after

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The padded way, of whole texts."""
        tokens, offsets = gathered(ids, mask)
        nothing: list[Tensor] = []
        return self.forward(tokens, offsets, nothing)[0]


class MaskedLanguageModelSignature(nn.Module):
    """Texts, mask tokens among them, to the scores of what stands in each place, before the softmax. The number of the
    mask token is that of tokens in the vocabulary."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """The ragged way, to [T, V]."""
        with torch.no_grad():
            return self.model.head.scores(self.model.core(tokens, lengths_of(tokens, offsets))[0])

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The padded way, to [B, L, V], 0 in the padding."""
        tokens, offsets = gathered(ids, mask)
        scores_TV = self.forward(tokens, offsets)
        scores = scores_TV.new_zeros([ids.shape[0], ids.shape[1], scores_TV.shape[1]])
        scores[mask != 0] = scores_TV
        return scores


class Seq2SeqSignature(nn.Module):
    """Sources are read once, by `encode` or `padded`, and targets written by `step`, which begin with the end mark."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model
        self.last = LastPooling()

    @torch.jit.export
    def encode(self, tokens: Tensor, offsets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The ragged way: sources to their memory, which stays, and to the state of their targets at the beginning."""
        with torch.no_grad():
            lengths = lengths_of(tokens, offsets)
            memory_TD, _, last = self.model.encoder.read(tokens, lengths)
            return self.model.decoder.begin(memory_TD, lengths, last)

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The same, the padded way."""
        tokens, offsets = gathered(ids, mask)
        return self.encode(tokens, offsets)

    @torch.jit.export
    def step(
        self, tokens: Tensor, offsets: Tensor, memory: list[Tensor], state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The next tokens of every target to the scores [B, V], before the softmax, of what follows, and the state
        after them. Where a target brings no token its scores mean nothing, and its state stays."""
        with torch.no_grad():
            lengths = lengths_of(tokens, offsets)
            hidden_TD, after = self.model.decoder.core(tokens, lengths, memory, state)
            return self.model.head.scores(self.last.core(hidden_TD, lengths)), after


def signature(model: nn.Module) -> nn.Module:
    """The module above that is for this kind of model.

    Raises:
        ValueError: there is none.
    """
    kinds: dict[type[nn.Module], Any] = {
        Classifier: ClassifierSignature,
        Tagger: TaggerSignature,
        LanguageModel: LanguageModelSignature,
        MaskedLanguageModel: MaskedLanguageModelSignature,
        Seq2Seq: Seq2SeqSignature,
    }
    for kind, signature in kinds.items():
        if isinstance(model, kind):
            return signature(model).eval()
    raise ValueError(f"{type(model).__name__} has no signature to be exported with: it is none of seqlab's models")
