"""Pre-norm Transformer blocks (Vaswani et al. 2017; norm before each part as in Xiong et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqlab.layers.attention import SelfAttention
from seqlab.layers.backend import backend, is_fast
from seqlab.layers.cache import make_room, tight
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import Positions
from seqlab.layers.product import Linear

Activation = Literal["gelu", "swiglu"]
Norm = Literal["layer", "rms"]


class SwiGLU(nn.Module):
    """silu(a) * b, for the two halves of what comes in (Shazeer 2020, equation 6): [..., 2 M] to [..., M]."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return nn.functional.silu(a) * b


def make_mlp(width: int, hidden: int, activation: Activation) -> nn.Sequential:
    """From D to D through `hidden` values; a gate doubles what the first map gives."""
    if activation == "swiglu":
        return nn.Sequential(Linear(width, 2 * hidden), SwiGLU(), Linear(hidden, width))
    return nn.Sequential(Linear(width, hidden), nn.GELU(), Linear(hidden, width))


def make_norm(width: int, kind: Norm) -> nn.Module:
    """Over the features of each token: LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019)."""
    return nn.RMSNorm(width, eps=1e-5) if kind == "rms" else nn.LayerNorm(width)


class TransformerBlock(SequenceLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width, heads, causal, positions, kv_heads, window: see `SelfAttention`.
        mlp_width: width of the hidden layer between the two linear maps of the second part.
        dropout: share of the values that each part adds which are zeroed while training.
        attention_dropout: share of the attention probabilities zeroed while training.
        activation: of the second part; "swiglu" has a gate, and a third linear map.
        norm: "layer" or "rms".
        checkpointing: while training, keep only what comes in, and compute the rest once more for the backward pass
            (Chen et al. 2016). The block then keeps no keys and values to continue from.
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
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(width, norm)
        self.attention = SelfAttention(width, heads, causal, positions, kv_heads, window, attention_dropout)
        self.mlp_norm = make_norm(width, norm)
        self.mlp = make_mlp(width, mlp_width, activation)
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = checkpointing
        self.compiler: str | Callable[..., Any] | None = None

    @torch.jit.unused
    def initialize(self, blocks: int) -> None:
        """Small weights; those that write into the sum over blocks smaller still (Radford et al. 2019, section 2.3)."""
        scale = (2 * blocks) ** -0.5
        for linear, std in (
            (self.attention.qkv, 0.02),
            (self.attention.out, 0.02 * scale),
            (self.mlp[0], 0.02),
            (self.mlp[2], 0.02 * scale),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    @torch.jit.unused
    def flops(self, lengths: Tensor) -> float:
        weights = sum(parameter.numel() for parameter in self.mlp.parameters() if parameter.dim() == 2)
        return self.attention.flops(lengths) + 6.0 * weights * int(lengths.sum())

    @torch.jit.export
    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`state`: see `SelfAttention.core`."""
        if not torch.jit.is_scripting():
            if state is None:
                return self.read(values, lengths)
        return self.parts(values, lengths, state)

    def parts(self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """The equation."""
        attended, kept = self.attention.core(self.attention_norm(values), lengths, state)
        x = values + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), kept

    @torch.jit.unused
    def read(self, values: Tensor, lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Sequences from their beginning: compiled, checkpointed, both or neither."""
        parts = self.parts
        # A compiler makes a graph of its own for one row or none; such a batch is not worth one.
        if self.compiler is not None and lengths is not None and values.shape[0] > 1 and is_fast():
            parts = partial(_compiled, self.compiler, self)
        if self.checkpointing and self.training and torch.is_grad_enabled():
            path: Literal["fast", "plain"] = "fast" if is_fast() else "plain"

            def again(x: Tensor) -> Tensor:
                with backend(path):  # wherever the backward pass is called from
                    return parts(x, lengths, None)[0]

            return checkpoint(again, values, use_reentrant=False), []
        return parts(values, lengths, None)


@cache
def _compiler(backend: str | Callable[..., Any]) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """One compiled function for all blocks: those that are alike share their graphs."""

    def parts(block: TransformerBlock, values: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        return block.parts(values, lengths, None)

    return torch.compile(parts, backend=backend, fullgraph=True)


def _compiled(
    backend: str | Callable[..., Any], block: TransformerBlock, values: Tensor, lengths: Tensor, _: None
) -> Any:
    torch._dynamo.mark_dynamic(values, 0)
    torch._dynamo.decorators.mark_unbacked(lengths, 0)  # any number of sequences, 1 among them
    return _compiler(backend)(block, values, lengths)


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
        width, heads, mlp_width, causal, positions, dropout, options: see `TransformerBlock`.
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
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, mlp_width, causal, positions, dropout, **options) for _ in range(layers)
        )
        self.norm = make_norm(width, options.get("norm", "layer"))
        for block in self.blocks:
            block.initialize(blocks=layers)

    @torch.jit.unused
    def flops(self, lengths: Tensor) -> float:
        return sum(block.flops(lengths) for block in self.blocks)

    @torch.jit.export
    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        x = values
        end: list[Tensor] = [] if lengths is None else tight(lengths)
        place: list[Tensor] = []
        if state is not None and lengths is not None:
            if len(state) != 2 * len(self.blocks) + 3:
                raise ValueError(
                    "nothing to continue from: a training pass with model.checkpointing=true keeps no keys and values"
                )
            before = state[-1]
            state, rows = make_room(state, lengths)
            place, end = [rows, state[-2], before], state[-3:]
        after: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            past = None if state is None else state[2 * i : 2 * i + 2] + place
            x, kept = block.core(x, lengths, past)
            after += kept
        return self.norm(x), after + end
