"""Encoders: from tokens to one hidden vector for each of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqlab.layers.cells import Cell
from seqlab.layers.embedding import Embedding
from seqlab.layers.positions import NoPositions, Positions
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.transformer import Activation, Norm, TransformerStack
from seqlab.models.state import State
from seqlab.ragged import Layout, Ragged


class Encoder(nn.Module):
    """An embedding and a stack of layers.

    `causal` says whether a token's hidden vector depends only on itself and on what came before it; then the encoder
    can continue from a state, and `step` reads one token at a time.
    """

    embedding: Embedding
    stack: RecurrentStack | TransformerStack
    output_size: int
    causal: bool

    @property
    def max_length(self) -> int | None:
        """The longest sequence whose positions are known; None: any."""
        return getattr(self.embedding.positions, "max_length", None)

    def forward(self, tokens: Ragged, state: State | None = None) -> tuple[Ragged, State]:
        """Tokens [T] to hidden [T, D], and the state after each sequence, from which another call continues."""
        past = None if state is None else self.unpack(state)
        x_TD = self.embedding.core(tokens.values, tokens.lengths, None if state is None else state.lengths)
        hidden_TD, after = self.stack.core(x_TD, tokens.lengths, past)
        return tokens.with_values(hidden_TD), self.pack(after)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token of every sequence, [B] to hidden [B, D]."""
        layout = Layout(torch.ones(tokens_B.shape[0], dtype=torch.int64))
        hidden, state = self(Ragged(tokens_B, layout), state)
        return hidden.values, state

    def pack(self, tensors: list[Tensor]) -> State:
        """The state that a stack has returned as a list."""
        raise NotImplementedError

    def unpack(self, state: State) -> list[Tensor]:
        """The list again."""
        return state.tensors + ([] if state.lengths is None else [state.lengths])


class RecurrentEncoder(Encoder):
    """Any cell, in one or several layers (seqlab/layers/rnn.py).

    Args:
        vocabulary: how many tokens there are.
        cell: makes one cell, called `cell(input_size, hidden_size)`; see seqlab/layers/cells.py.
        width: of the embedding, and of each direction of each layer.
        layers: how many layers.
        bidirectional: read every sequence from its end as well; the output is then twice as wide, and not causal.
        dropout: share of the values zeroed while training: of the embedding, between layers, and of the output.
        residual: add a layer's input to its output.
    """

    def __init__(
        self,
        vocabulary: int,
        cell: Callable[[int, int], Cell],
        width: int = 256,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, NoPositions(width, width), dropout)
        self.stack = RecurrentStack(width, width, cell, layers, bidirectional, dropout, residual)
        self.dropout = nn.Dropout(dropout)
        self.output_size = self.stack.output_size
        self.causal = not bidirectional

    def forward(self, tokens: Ragged, state: State | None = None) -> tuple[Ragged, State]:
        hidden, state = super().forward(tokens, state)
        return hidden.map(self.dropout), state

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        ones = torch.ones(tokens_B.shape[0], dtype=torch.int64)
        hidden_BD, after = self.stack.step(self.embedding.core(tokens_B, ones), state.tensors)
        return self.dropout(hidden_BD), State(after)

    def pack(self, tensors: list[Tensor]) -> State:
        return State(tensors)


class TransformerEncoder(Encoder):
    """Pre-norm Transformer blocks (seqlab/layers/transformer.py).

    Args:
        vocabulary: how many tokens there are.
        positions: makes the scheme of positions, called `positions(width=..., head_width=...)`.
        width: model width D.
        layers: how many blocks.
        heads: attention heads H in each; D must be a multiple of it.
        mlp_width: width of the hidden layer in each block; None means 4 * width.
        causal: a token reads only itself and those before it, as language models need.
        dropout: share of the values zeroed while training: of the embedding and of what each part of a block adds.
        kv_heads: heads of keys and values, each shared by heads / kv_heads query heads; None: as many as heads.
        window: the most tokens that a token reads before it, itself included (and after it, unless causal); None: all.
        attention_dropout: share of the attention probabilities zeroed while training; costs the fast kernel.
        activation: "gelu", or "swiglu", which has a gate; `mlp_width` None then means 8/3 * width, as many parameters.
        norm: "layer" or "rms".
        checkpointing: while training, compute each block twice and keep only what enters it.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: Callable[..., Positions],
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        mlp_width: int | None = None,
        causal: bool = True,
        dropout: float = 0.1,
        kv_heads: int | None = None,
        window: int | None = None,
        attention_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Norm = "layer",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or layers < 1 or width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}, and layers={layers} be at least 1")
        scheme = positions(width=width, head_width=width // heads)
        self.embedding = Embedding(vocabulary, width, scheme, dropout)
        hidden = mlp_width or (4 * width if activation == "gelu" else -(-8 * width // 3) + 7 & -8)  # a multiple of 8
        self.stack = TransformerStack(
            width, heads, layers, hidden, causal, scheme, dropout,
            kv_heads=kv_heads, window=window, attention_dropout=attention_dropout, activation=activation, norm=norm,
            checkpointing=checkpointing,
        )  # fmt: skip
        self.output_size = width
        self.causal = causal

    def pack(self, tensors: list[Tensor]) -> State:
        *keys_and_values, taken, starts, lengths = tensors
        return State(keys_and_values, lengths, (taken, starts))

    def unpack(self, state: State) -> list[Tensor]:
        assert state.lengths is not None
        assert state.cache is not None
        return [*state.tensors, *state.cache, state.lengths]
