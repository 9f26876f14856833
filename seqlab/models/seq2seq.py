"""A sequence-to-sequence model: an encoder that reads the source, a decoder that reads the target, and a head."""

from __future__ import annotations

from torch import Tensor, nn

from seqlab.layers.heads import SoftmaxHead
from seqlab.models.encoders import Encoder
from seqlab.models.state import Seq2SeqState
from seqlab.ragged import Ragged


class Seq2Seq(nn.Module):
    """Hidden vectors of target tokens that know the source, and the head that turns each into scores for the next.

    The decoder is the encoder's `counterpart`: of the same kind and size.

    Args:
        encoder: reads the source; need not be causal.
        vocabulary: how many source tokens there are.
        target_vocabulary: how many target tokens.
        one_vocabulary: whether a number stands for the same token on both sides.
        decoder_layers: layers of the decoder; None: as many as the encoder has.
        attention: whether the decoder looks at the whole source; a recurrent one may do without, and knows then only
            the encoder's last state (Sutskever et al. 2014).
        shared_embedding: one embedding for source and target, which have one vocabulary.
        tied: share the target embedding's weight with the head (Press & Wolf 2017).
        label_smoothing: see `SoftmaxHead`; evaluation is without, so that its perplexity is one.

    Raises:
        ValueError: the vocabularies cannot share an embedding, a Transformer is to go without attention, or a number is
            out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        vocabulary: int,
        target_vocabulary: int,
        one_vocabulary: bool = True,
        decoder_layers: int | None = None,
        attention: bool = True,
        shared_embedding: bool = False,
        tied: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if decoder_layers is not None and decoder_layers < 1:
            raise ValueError(f"decoder_layers={decoder_layers}: expected at least 1, or null")
        if shared_embedding and not (one_vocabulary and vocabulary == target_vocabulary):
            raise ValueError(
                f"source and target have vocabularies of {vocabulary} and {target_vocabulary} tokens and cannot share "
                "an embedding: set shared_embedding=false, or use one tokenizer for both"
            )
        sizes = {} if decoder_layers is None else {"layers": decoder_layers}
        self.encoder = encoder
        self.decoder = encoder.counterpart(target_vocabulary, encoder.output_size if attention else None, **sizes)
        if shared_embedding:
            self.decoder.embedding.weight = encoder.embedding.weight
        weight = self.decoder.embedding.weight if tied else None
        self.head = SoftmaxHead(self.decoder.output_size, target_vocabulary, weight, label_smoothing)

    @property
    def max_length(self) -> int | None:
        """The longest target, and the longest source, whose positions are known; None: any."""
        return self.decoder.max_length

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, per source token: names and weights."""
        return self.encoder.costs

    def encode(self, source: Ragged, prefix: Ragged) -> tuple[Ragged, dict[str, Tensor]]:
        """Whole pairs, as training reads them: hidden [T', D] of the target tokens in `prefix`, each of which has seen
        the source [T] and the tokens up to itself; and the sum over the source of each of `costs`."""
        _require_one_each(prefix, source.lengths)
        memory_TD, costs, last = self.encoder.read(source.values, source.lengths)
        return self.decoder.encode(prefix, source.with_values(memory_TD), last), costs

    def remember(self, source: Ragged) -> Seq2SeqState:
        """Source tokens [T] to the state from which targets are read or written."""
        memory_TD, _, last = self.encoder.read(source.values, source.lengths)
        return self.decoder.remember(source.with_values(memory_TD), last)

    def forward(self, tokens: Ragged, state: Seq2SeqState) -> tuple[Ragged, Seq2SeqState]:
        """Target tokens [T'] to hidden [T', D], and the state to continue from."""
        _require_one_each(tokens, state.memory.lengths)
        return self.decoder(tokens, state)

    def step(self, tokens_B: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """The next token of every target, [B] to hidden [B, D]."""
        return self.decoder.step(tokens_B, state)

    def flops(self, source_lengths: Tensor, target_lengths: Tensor) -> float:
        """Useful FLOPs of a training step in which every target token predicts the next; see `SequenceLayer.flops`."""
        decoder = self.decoder.flops(target_lengths, source_lengths)
        return self.encoder.flops(source_lengths) + decoder + self.head.flops(int(target_lengths.sum()))


def _require_one_each(targets: Ragged, source_lengths: Tensor | None) -> None:
    if source_lengths is not None and len(targets) != len(source_lengths):
        raise ValueError(f"got {len(targets)} targets and {len(source_lengths)} sources: one each is expected")
