"""A researcher's own encoder, outside the package: each token's vector is mixed with that of the token before it."""

import torch
from torch import Tensor, nn

from seqlab.layers.embedding import Embedding
from seqlab.layers.positions import NoPositions
from seqlab.models.encoders import Encoder
from seqlab.models.state import State


class MyEncoder(Encoder):
    """A causal encoder of two tokens. Its state is the vector of the last token [B, D]."""

    def __init__(self, vocabulary: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, NoPositions(width, width), 0.0)
        self.mix = nn.Linear(2 * width, width)
        self.output_size, self.causal = width, True

    def core(
        self, tokens: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        assert lengths is not None
        x_TD = self.embedding.core(tokens, lengths)
        last_BD = x_TD.new_zeros(len(lengths), x_TD.shape[1]) if state is None else state[0]
        ends_B = lengths.cumsum(0)
        begins_B = (ends_B - lengths)[lengths > 0]
        before_TD = x_TD.roll(1, 0).index_copy(0, begins_B, last_BD[lengths > 0])
        after_BD = last_BD.index_copy(0, (lengths > 0).nonzero().flatten(), x_TD[ends_B[lengths > 0] - 1])
        return torch.tanh(self.mix(torch.cat([x_TD, before_TD], 1))), [after_BD]

    def flops(self, lengths: Tensor) -> float:
        return 6.0 * self.mix.weight.numel() * int(lengths.sum())

    def pack(self, tensors: list[Tensor]) -> State:
        return State(tensors)
