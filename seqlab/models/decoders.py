"""Decoders: from a source that an encoder has read, and the target written so far, to one hidden vector per token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.layers.attention.cache import untouched
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.embedding import Embedding
from seqlab.layers.positions import NoPositions, Positions
from seqlab.layers.recurrent.cells import Cell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.models.state import Seq2SeqState, State
from seqlab.ragged import Layout, Ragged


class Decoder(nn.Module):
    """An embedding of target tokens and a causal stack of layers that looks at the memory, what an encoder has given.

    `last` is what the encoder ended with, see `Encoder.read`; only a recurrence has a use for it. As in an encoder the
    arithmetic is written on plain tensors: `begin` and `core`.
    """

    embedding: Embedding
    output_size: int

    @property
    def max_length(self) -> int | None:
        """The longest target whose positions are known; None: any."""
        return self.embedding.positions.max_length

    def begin(self, memory: Tensor, lengths: Tensor, last: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of a memory [T', D'] with lengths [B] what can be computed from it once; and the state of the target before
        its first token."""
        raise NotImplementedError

    def core(
        self, tokens: Tensor, lengths: Tensor, memory: list[Tensor], past: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Target tokens [T] with lengths [B], as many sequences as the memory has, to hidden [T, D], and the state of
        the target after them; `memory` and `past` as `begin` gave them."""
        raise NotImplementedError

    def remember(self, memory: Ragged, last: list[Tensor]) -> Seq2SeqState:
        """The state before the first token; what can be computed from the memory [T', D'] once is in it."""
        raise NotImplementedError

    def forward(self, tokens: Ragged, state: Seq2SeqState) -> tuple[Ragged, Seq2SeqState]:
        """Target tokens [T], as many sequences as the memory has, to hidden [T, D], and the state after them."""
        raise NotImplementedError

    def step(self, tokens_B: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """The next token of every sequence, [B] to hidden [B, D]."""
        layout = Layout(torch.ones(tokens_B.shape[0], dtype=torch.int64))
        hidden, state = self(Ragged(tokens_B, layout), state)
        return hidden.values, state

    def encode(self, tokens: Ragged, memory: Ragged, last: list[Tensor]) -> Ragged:
        """Whole targets, as training reads them: the same hidden [T, D], and no state."""
        return self(tokens, self.remember(memory, last))[0]

    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        """Useful FLOPs of a training step, see `SequenceLayer.flops`; looking up an embedding is none."""
        raise NotImplementedError


class RecurrentDecoder(Decoder):
    """Any cell, in one or several layers, and after the last of them attention to the source (Luong et al. 2015).

    What the attention finds goes to the head and not back into the recurrence (no input feeding, section 3.3 there):
    so the whole target unrolls in one call, and all of its tokens look at the source in another. Layer i begins with
    the last state of the encoder's layer i (Sutskever et al. 2014); layers that the encoder lacks begin anew.

    Args:
        vocabulary: how many target tokens there are.
        memory_width: width of the memory; None: no attention, all that is known of the source is its last state.
        cell, width, layers, dropout, residual, variational: see `RecurrentEncoder`.
    """

    def __init__(
        self,
        vocabulary: int,
        memory_width: int | None,
        cell: Callable[[int, int], Cell],
        width: int,
        layers: int = 1,
        dropout: float = 0.0,
        residual: bool = False,
        variational: bool = False,
    ) -> None:
        super().__init__()
        outside = 0.0 if variational else dropout  # a variational stack drops from its own input and output
        self.embedding = Embedding(vocabulary, width, NoPositions(width, width), outside)
        self.stack = RecurrentStack(
            width, width, cell, layers, dropout=dropout, residual=residual, variational=variational
        )
        self.attention = None if memory_width is None else GlobalAttention(width, memory_width)
        self.dropout = nn.Dropout(outside)
        self.output_size = width

    def begin(self, memory: Tensor, lengths: Tensor, last: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        begin = self.stack.initial_state(lengths.shape[0])
        source: list[Tensor] = []
        if self.attention is not None:
            source = self.attention.remember(memory, lengths)
        return source, last[: len(begin)] + begin[len(last) :]

    def core(
        self, tokens: Tensor, lengths: Tensor, memory: list[Tensor], past: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        h_TD, after = self.stack.core(self.embedding.core(tokens, lengths), lengths, past)
        return self.look(h_TD, lengths, memory), after

    def look(self, h_TD: Tensor, lengths: Tensor, memory: list[Tensor]) -> Tensor:
        """The hidden rows once they have looked at the source."""
        if self.attention is not None:
            h_TD = self.attention.core(h_TD, lengths, memory)
        return self.dropout(h_TD)

    def remember(self, memory: Ragged, last: list[Tensor]) -> Seq2SeqState:
        source, begin = self.begin(memory.values, memory.lengths, last)
        return Seq2SeqState(State.of_cache(source) if source else State([], memory.lengths), State(begin))

    def forward(self, tokens: Ragged, state: Seq2SeqState) -> tuple[Ragged, Seq2SeqState]:
        h_TD, after = self.core(tokens.values, tokens.lengths, self.source(state), state.past.tensors)
        return tokens.with_values(h_TD), state.after(State(after))

    def step(self, tokens_B: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        ones = torch.ones(tokens_B.shape[0], dtype=torch.int64)
        h_BD, after = self.stack.step(self.embedding.core(tokens_B, ones), state.past.tensors)
        return self.look(h_BD, ones, self.source(state)), state.after(State(after))

    def source(self, state: Seq2SeqState) -> list[Tensor]:
        """What `begin` gave of the memory."""
        return [] if self.attention is None else state.memory.as_cache()

    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        attention = 0.0 if self.attention is None else self.attention.flops(lengths, memory_lengths)
        return self.stack.flops(lengths) + attention


class TransformerDecoder(Decoder):
    """Pre-norm Transformer blocks, each with attention to the source between its two parts (Vaswani et al. 2017).

    Args:
        vocabulary: how many target tokens there are.
        memory_width: width of the memory.
        positions: makes the scheme of positions, called `positions(width=..., head_width=...)`. It acts on the target
            alone: attention to the source sees no distances.
        width, heads, layers, mlp_width, dropout, options: see `TransformerStack`.
    """

    def __init__(
        self,
        vocabulary: int,
        memory_width: int | None,
        positions: Callable[..., Positions],
        width: int,
        heads: int,
        layers: int,
        mlp_width: int,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if memory_width is None:
            raise ValueError("attention=false leaves a Transformer nothing to know its source by; take model=lstm")
        scheme = positions(width=width, head_width=width // heads)
        self.embedding = Embedding(vocabulary, width, scheme, dropout)
        self.stack = TransformerStack(
            width, heads, layers, mlp_width, True, scheme, dropout, memory_width=memory_width, **options
        )
        self.output_size = width

    def begin(self, memory: Tensor, lengths: Tensor, last: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        source = self.stack.remember(memory, lengths)
        return source, untouched(source, lengths)

    def core(
        self, tokens: Tensor, lengths: Tensor, memory: list[Tensor], past: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        x_TD = self.embedding.core(tokens, lengths, None if past is None else past[-1])
        return self.stack.core(x_TD, lengths, past, memory)

    def remember(self, memory: Ragged, last: list[Tensor]) -> Seq2SeqState:
        source, past = self.begin(memory.values, memory.lengths, last)
        return Seq2SeqState(State.of_cache(source), State.of_cache(past))

    def forward(self, tokens: Ragged, state: Seq2SeqState) -> tuple[Ragged, Seq2SeqState]:
        given = (state.memory.as_cache(), state.past.as_cache())
        hidden_TD, after = self.core(tokens.values, tokens.lengths, *given)
        return tokens.with_values(hidden_TD), state.after(State.of_cache(after))

    def encode(self, tokens: Ragged, memory: Ragged, last: list[Tensor]) -> Ragged:
        source, _ = self.begin(memory.values, memory.lengths, last)
        return tokens.with_values(self.core(tokens.values, tokens.lengths, source, None)[0])

    def flops(self, lengths: Tensor, memory_lengths: Tensor) -> float:
        return self.stack.flops(lengths, memory_lengths)
