"""Encoders: from tokens to one hidden vector for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.layers.embedding import Embedding
from seqlab.layers.mlp import Activation
from seqlab.layers.norms import Norm
from seqlab.layers.positions import NoPositions, Positions
from seqlab.layers.recurrent.cells import Cell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.models.decoders import Decoder, RecurrentDecoder, TransformerDecoder
from seqlab.models.state import State
from seqlab.ragged import Layout, Ragged


class Encoder(nn.Module):
    """An embedding and a stack of layers.

    `causal` says whether a token's hidden vector depends only on itself and on what came before it; then the encoder
    can continue from a state, and `step` reads one token at a time. The last `backward` features of the output come
    from reading each sequence from its end. In the place of tokens [T] vectors [T, D] may come, not to be looked up.

    `counterpart` makes a decoder of the same kind and size, for sequence-to-sequence models: it is called
    `counterpart(vocabulary, memory_width)`, and takes the arguments of that decoder to change them.

    As in a layer (seqlab/layers/layer.py) the arithmetic is written once, on plain tensors: `core` and `read`. Whatever
    takes Ragged calls one of them.
    """

    embedding: Embedding
    stack: RecurrentStack | TransformerStack | UniversalTransformer
    output_size: int
    causal: bool
    counterpart: Callable[..., Decoder]
    backward = 0

    @property
    def max_length(self) -> int | None:
        """The longest sequence whose positions are known; None: any."""
        return self.embedding.positions.max_length

    @property
    def costs(self) -> dict[str, float]:
        """What the encoder adds to the objective, per token read: name to weight; 0 means to be logged only."""
        return {}

    def core(self, tokens: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return hidden vectors [T, D] of tokens [T] with lengths [B], and the state after each sequence, from which
        another call continues."""
        x_TD = self.embedding.core(tokens, lengths, None if state is None else state[-1])
        return self.stack.core(x_TD, lengths, state)

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Whole sequences, as training reads them: hidden as in `core`; the sum over the tokens of each of `costs`; and
        the tensors [B, ...], layer by layer, that a recurrent decoder's state begins with, which none but a recurrent
        encoder has."""
        return self.core(tokens, lengths, None)[0], {}, []

    def encode(self, tokens: Ragged) -> tuple[Ragged, dict[str, Tensor]]:
        """Whole sequences, as training reads them: hidden [T, D], and the sum over the tokens of each of `costs`."""
        hidden_TD, costs, _ = self.read(tokens.values, tokens.lengths)
        return tokens.with_values(hidden_TD), costs

    def forward(self, tokens: Ragged, state: State | None = None) -> tuple[Ragged, State]:
        """Tokens [T] to hidden [T, D], and the state after each sequence, from which another call continues."""
        past = None if state is None else self.unpack(state)
        hidden_TD, after = self.core(tokens.values, tokens.lengths, past)
        return tokens.with_values(hidden_TD), self.pack(after)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token of every sequence, [B] to hidden [B, D]."""
        layout = Layout(torch.ones(tokens_B.shape[0], dtype=torch.int64))
        hidden, state = self(Ragged(tokens_B, layout), state)
        return hidden.values, state

    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a training step, see `SequenceLayer.flops`; looking up an embedding is none."""
        return self.stack.flops(lengths)

    def pack(self, tensors: list[Tensor]) -> State:
        """The state that a stack has returned as a list."""
        raise NotImplementedError

    def unpack(self, state: State) -> list[Tensor]:
        """The list again."""
        return state.tensors + ([] if state.lengths is None else [state.lengths])


class RecurrentEncoder(Encoder):
    """Any cell, in one or several layers (seqlab/layers/recurrent/stack.py).

    Args:
        vocabulary: how many tokens there are.
        cell: makes one cell, called `cell(input_size, hidden_size)`; see seqlab/layers/recurrent/cells.py.
        width: of the embedding, and of each direction of each layer.
        layers: how many layers.
        causal: a token reads only itself and those before it, as language models need; else every sequence is read
            from its end as well (Schuster & Paliwal 1997), and the output is twice as wide.
        dropout: share of the values zeroed while training: of the embedding, between layers, and of the output.
        residual: add a layer's input to its output.
        variational: drop the same features at every step of a sequence (Gal & Ghahramani 2016).
    """

    stack: RecurrentStack

    def __init__(
        self,
        vocabulary: int,
        cell: Callable[[int, int], Cell],
        width: int = 256,
        layers: int = 1,
        causal: bool = True,
        dropout: float = 0.1,
        residual: bool = False,
        variational: bool = False,
    ) -> None:
        super().__init__()
        outside = 0.0 if variational else dropout  # a variational stack drops from its own input and output
        self.embedding = Embedding(vocabulary, width, NoPositions(width, width), outside)
        self.stack = RecurrentStack(width, width, cell, layers, not causal, dropout, residual, variational)
        self.dropout = nn.Dropout(outside)
        self.output_size = self.stack.output_size
        self.causal = causal
        self.backward = 0 if causal else width
        self.counterpart = partial(
            RecurrentDecoder, cell=cell, width=width, layers=layers, dropout=dropout, residual=residual,
            variational=variational,
        )  # fmt: skip

    def core(self, tokens: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        hidden_TD, after = self.stack.core(self.embedding.core(tokens, lengths), lengths, state)
        return self.dropout(hidden_TD), after

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """The last state of each layer; where that reads both ways the mean of two, which stays where states lie."""
        hidden_TD, state = self.core(tokens, lengths, None)
        if self.causal:
            return hidden_TD, {}, state
        size, last = self.stack.state_size, state[:0]
        for i in range(len(state)):
            if i // size % 2 == 0:
                last.append((state[i] + state[i + size]) / 2)
        return hidden_TD, {}, last

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

    stack: TransformerStack

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
        if layers < 1:
            raise ValueError(f"layers={layers}: at least 1 is needed")
        _require_sizes(width, heads, mlp_width)
        scheme = positions(width=width, head_width=width // heads)
        self.embedding = Embedding(vocabulary, width, scheme, dropout)
        # A gate has three maps in place of two: 8 / 3 of the width, in steps of 8, make it as large.
        hidden = mlp_width or (4 * width if activation == "gelu" else 8 * math.ceil(width / 3))
        options: dict[str, Any] = {
            "kv_heads": kv_heads, "window": window, "attention_dropout": attention_dropout, "activation": activation,
            "norm": norm, "checkpointing": checkpointing,
        }  # fmt: skip
        self.stack = TransformerStack(width, heads, layers, hidden, causal, scheme, dropout, **options)
        self.output_size = width
        self.causal = causal
        self.counterpart = partial(
            TransformerDecoder, positions=positions, width=width, heads=heads, layers=layers, mlp_width=hidden,
            dropout=dropout, **options,
        )  # fmt: skip

    def pack(self, tensors: list[Tensor]) -> State:
        return State.of_cache(tensors)

    def unpack(self, state: State) -> list[Tensor]:
        return state.as_cache()


class UniversalEncoder(Encoder):
    """One Transformer block that each token runs through as often as it asks for (seqlab/layers/universal.py).

    Args:
        vocabulary: how many tokens there are.
        positions: makes the scheme of positions, called `positions(width=..., head_width=...)`.
        width: model width D.
        heads: attention heads H; D must be a multiple of it.
        max_steps: the most rounds for a token.
        mlp_width: width of the hidden layer of the block; None means 4 * width.
        causal: a token reads only itself and those before it, as language models need.
        threshold: a token halts when its halting probabilities add up to this; None: all run `max_steps` rounds.
        ponder_weight: what a round of a token costs in nats per token: tau of Graves 2016, section 2.1.
        dropout: share of the values zeroed while training: of the embedding and of what each part of the block adds.
    """

    stack: UniversalTransformer

    def __init__(
        self,
        vocabulary: int,
        positions: Callable[..., Positions],
        width: int = 128,
        heads: int = 4,
        max_steps: int = 6,
        mlp_width: int | None = None,
        causal: bool = True,
        threshold: float | None = 0.99,
        ponder_weight: float = 0.01,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _require_sizes(width, heads, mlp_width)
        if ponder_weight < 0:
            raise ValueError(f"ponder_weight={ponder_weight}: expected 0 or more")
        scheme = positions(width=width, head_width=width // heads)
        self.embedding = Embedding(vocabulary, width, scheme, dropout)
        mlp_width = mlp_width or 4 * width
        self.stack = UniversalTransformer(width, heads, max_steps, mlp_width, causal, scheme, threshold, dropout)
        self.output_size = width
        self.causal = causal
        self.halts = threshold is not None
        self.ponder_weight = ponder_weight
        self.counterpart = partial(  # which does not halt: one block for each of the rounds
            TransformerDecoder, positions=positions, width=width, heads=heads, layers=max_steps, mlp_width=mlp_width,
            dropout=dropout,
        )  # fmt: skip

    @property
    def costs(self) -> dict[str, float]:
        """`ponder`, the rounds N of a token, and `ponder_cost`, N + R, through which there is a gradient."""
        return {"ponder": 0.0, "ponder_cost": self.ponder_weight} if self.halts else {}

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        x_TD = self.embedding.core(tokens, lengths)
        hidden_TD, rounds_T, remainders_T, _ = self.stack.ponder(x_TD, lengths, None, False)
        if not self.halts:
            return hidden_TD, {}, []
        ponder = rounds_T.sum().to(remainders_T)
        return hidden_TD, {"ponder": ponder, "ponder_cost": ponder + remainders_T.sum()}, []

    def pack(self, tensors: list[Tensor]) -> State:
        return State(tensors[:-1], tensors[-1])


def _require_sizes(width: int, heads: int, mlp_width: int | None) -> None:
    if min(heads, width) < 1 or width % heads:
        raise ValueError(f"width={width} must be a multiple of heads={heads}, and both above 0")
    if mlp_width is not None and mlp_width < 1:
        raise ValueError(f"mlp_width={mlp_width}: expected at least 1, or null")
