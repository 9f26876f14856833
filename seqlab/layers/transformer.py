"""Pre-norm Transformer blocks (Vaswani et al. 2017; norm before each part as in Xiong et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqlab.layers.attention.cache import make_room, tight
from seqlab.layers.attention.modules import CrossAttention, SelfAttention
from seqlab.layers.backend import backend, is_fast
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.linear import Linear
from seqlab.layers.mlp import Activation, make_mlp
from seqlab.layers.norms import Norm, make_norm
from seqlab.layers.positions import Positions


class TransformerBlock(SequenceLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); in a decoder, x + cross_attention(norm(x), memory) between them.

    Args:
        width, heads, causal, positions, kv_heads, window: see `SelfAttention`.
        mlp_width: width of the hidden layer between the two linear maps of the second part.
        dropout: share of the values that each part adds which are zeroed while training.
        attention_dropout: share of the attention probabilities zeroed while training.
        activation: of the second part; "swiglu" has a gate, and a third linear map.
        norm: "layer" or "rms".
        checkpointing: while training, keep only what comes in, and compute the rest once more for the backward pass
            (Chen et al. 2016). The block then keeps no keys and values to continue from.
        memory_width: width of the memory that a decoder's block reads; None: there is none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        causal: bool,
        positions: Positions,
        dropout: float = 0.0,
        kv_heads: int | None = None,
        window: int | None = None,
        attention_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Norm = "layer",
        checkpointing: bool = False,
        memory_width: int | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(width, norm)
        self.attention = SelfAttention(width, heads, causal, positions, kv_heads, window, attention_dropout)
        self.cross_norm: nn.Module = nn.Identity()
        self.cross: CrossAttention | None = None
        if memory_width is not None:
            self.cross_norm = make_norm(width, norm)
            self.cross = CrossAttention(width, heads, memory_width, kv_heads, attention_dropout)
        self.mlp_norm = make_norm(width, norm)
        self.mlp = make_mlp(width, mlp_width, activation)
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = checkpointing
        self.compiler: str | Callable[..., Any] | None = None

    def initialize(self, blocks: int) -> None:
        """Small weights; those that write into the sum over blocks smaller still (Radford et al. 2019, section 2.3)."""
        cross = [] if self.cross is None else [self.cross.query, self.cross.key_value, self.cross.out]
        mlp = [part for part in self.mlp if isinstance(part, Linear)]
        writers = [self.attention.out, *cross[2:], mlp[-1]]
        for linear in (self.attention.qkv, self.attention.out, *cross, *mlp):
            scale = (len(writers) * blocks) ** -0.5 if linear in writers else 1.0
            nn.init.normal_(linear.weight, std=0.02 * scale)
            nn.init.zeros_(linear.bias)

    def flops(self, lengths: Tensor, memory_lengths: Tensor | None = None) -> float:
        weights = sum(parameter.numel() for parameter in self.mlp.parameters() if parameter.dim() == 2)
        cross = 0.0 if self.cross is None or memory_lengths is None else self.cross.flops(lengths, memory_lengths)
        return self.attention.flops(lengths) + cross + 6.0 * weights * int(lengths.sum())

    def core(
        self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return outputs [T, D] and the keys and values to keep; `memory` is what `CrossAttention.remember` gave."""
        if state is None:
            return self.read(values, lengths, memory)
        return self.parts(values, lengths, state, memory)

    def parts(
        self, values: Tensor, lengths: Tensor, state: list[Tensor] | None, memory: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the equation."""
        attended, kept = self.attention.core(self.attention_norm(values), lengths, state)
        x = values + self.dropout(attended)
        if self.cross is not None:
            assert memory is not None, "the blocks of a decoder read a memory"
            x = x + self.dropout(self.cross.core(self.cross_norm(x), lengths, memory))
        return x + self.dropout(self.mlp(self.mlp_norm(x))), kept

    def read(self, values: Tensor, lengths: Tensor, memory: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Read sequences from their beginning: compiled, checkpointed, both or neither."""
        parts = self.parts
        # A compiler makes a graph of its own for one row or none; such a batch is not worth one.
        several = values.shape[0] > 1 and (memory is None or memory[0].shape[0] > 1)
        if self.compiler is not None and several and is_fast():
            parts = partial(_compiled, self.compiler, self)
        if self.checkpointing and self.training and torch.is_grad_enabled():
            path: Literal["fast", "plain"] = "fast" if is_fast() else "plain"

            def again(x: Tensor) -> Tensor:
                with backend(path):  # wherever the backward pass is called from
                    return parts(x, lengths, None, memory)[0]

            return checkpoint(again, values, use_reentrant=False), []
        return parts(values, lengths, None, memory)


@cache
def _compiler(backend: str | Callable[..., Any]) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """One compiled function for all blocks: those that are alike share their graphs."""

    def parts(
        block: TransformerBlock, values: Tensor, lengths: Tensor, memory: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        return block.parts(values, lengths, None, memory)

    return torch.compile(parts, backend=backend, fullgraph=True)


def _compiled(
    backend: str | Callable[..., Any],
    block: TransformerBlock,
    values: Tensor,
    lengths: Tensor,
    _: None,
    memory: list[Tensor] | None,
) -> Any:
    for rows in (values, *(memory or [])[:2]):
        torch._dynamo.mark_dynamic(rows, 0)
    for sequences in (lengths, *(memory or [])[2:]):
        torch._dynamo.decorators.mark_unbacked(sequences, 0)  # any number of sequences, 1 among them
    return _compiler(backend)(block, values, lengths, memory)


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """From now on, each Transformer block in the model runs compiled where it reads sequences from their beginning.

    The token axis is dynamic, and what depends on lengths is opaque (`attend`, `places`), so that one graph serves all
    batches of training, and one those of evaluation. Each is whole, and a break in it an error: behind one, torch would
    lose the mark of the token axis. Names of parameters stay as they are. The plain path and steps run uncompiled.

    Returns:
        How many blocks there are.
    """
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    for block in blocks:
        block.compiler = backend
    return len(blocks)


class TransformerStack(SequenceLayer):
    """Blocks one after the other, then a norm. The state is a cache of every block's keys and values (cache.py).

    Args:
        layers: how many blocks.
        width, heads, mlp_width, causal, positions, dropout, options: see `TransformerBlock`. With `memory_width` it is
            the stack of a decoder, whose `core` wants the memory.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        mlp_width: int,
        causal: bool,
        positions: Positions,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        blocks = [
            TransformerBlock(width, heads, mlp_width, causal, positions, dropout, **options) for _ in range(layers)
        ]
        self.blocks = cast("Sequence[TransformerBlock]", nn.ModuleList(blocks))
        self.norm = make_norm(width, options.get("norm", "layer"))
        for block in self.blocks:
            block.initialize(blocks=layers)

    def flops(self, lengths: Tensor, memory_lengths: Tensor | None = None) -> float:
        return sum(block.flops(lengths, memory_lengths) for block in self.blocks)

    def remember(self, memory: Tensor, lengths: Tensor) -> list[Tensor]:
        """Compute keys and values of the memory [T', D'] for every block, as a cache that nobody adds to (cache.py)."""
        return self.kept_of(memory, lengths) + tight(lengths)

    def kept_of(self, memory: Tensor, lengths: Tensor) -> list[Tensor]:
        """Return keys and values of the memory for every block."""
        kept: list[Tensor] = []
        for block in self.blocks:
            if block.cross is not None:
                kept += block.cross.remember(memory, lengths)[:2]
        return kept

    def core(
        self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return outputs [T, D] and the cache after them; `memory` is what `remember` gave."""
        end = tight(lengths)
        place: list[Tensor] = []
        if state is not None:
            if len(state) != 2 * len(self.blocks) + 3:
                raise ValueError(
                    "nothing to continue from: a training pass with model.checkpointing=true keeps no keys and values"
                )
            before = state[-1]
            state, rows = make_room(state, lengths)
            place, end = [rows, state[-2], before], state[-3:]
        return self.through(values, lengths, state, place, memory, end)

    def through(
        self,
        x: Tensor,
        lengths: Tensor,
        state: list[Tensor] | None,
        place: list[Tensor],
        memory: list[Tensor] | None,
        end: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all blocks, then the norm.

        Every block gets its own keys and values of `state`, followed by `place`, and its own of `memory`, followed by
        the rows and lengths there. The state that is returned ends with `end`.
        """
        after: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            past = None if state is None else state[2 * i : 2 * i + 2] + place
            source = None if memory is None else memory[2 * i : 2 * i + 2] + memory[-2:]
            x, kept = block.core(x, lengths, past, source)
            after += kept
        return self.norm(x), after + end
