"""Pre-norm Transformer blocks (Vaswani et al. 2017; norm before each part as in Xiong et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention import SelfAttention
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import Positions


class TransformerBlock(SequenceLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width, heads, causal, positions: see `SelfAttention`.
        mlp_width: width of the hidden layer between the two linear maps of the second part.
        dropout: share of the values that each part adds which are zeroed while training.
    """

    def __init__(
        self, width: int, heads: int, mlp_width: int, causal: bool, positions: Positions, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal, positions)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width))
        self.dropout = nn.Dropout(dropout)

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
        attended, state = self.attention.core(self.attention_norm(values), lengths, state)
        x = values + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), state


class TransformerStack(SequenceLayer):
    """Blocks one after the other, then a norm. The state holds [keys, values] of every block, and last the lengths."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        mlp_width: int,
        causal: bool,
        positions: Positions,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, mlp_width, causal, positions, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
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
        after: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            past = None if state is None else [state[2 * i], state[2 * i + 1], state[-1]]
            x, new = block.core(x, lengths, past)
            after = after[: 2 * i] + new
        return self.norm(x), after
