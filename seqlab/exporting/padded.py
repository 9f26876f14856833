"""Models on blocks of sequences, as exported graphs read them. Nothing else computes on padding.

    dense          tokens [N, L], all of one length: `lengths` is None
    right-padded   tokens [N, L] with lengths [N]: each sequence begins its row, and padding ends it

`to_padded` gives each module that looks at lengths the class here. Where `core` of the ragged class takes rows [T, D],
that of the class here takes a block [N, L, D]. A state holds keys and values [N, M, G, K], of which those beyond the
length of a sequence mean nothing, and last the lengths [N]. The weights record no gradients, and nothing is dropped.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqlab.exporting.crf_loops import block_probabilities, block_viterbi
from seqlab.exporting.exportable import Classes, Model, exportable
from seqlab.exporting.loops import unroll_block
from seqlab.exporting.requirements import UnsuitedError
from seqlab.layers.attention.call import allowed, bias_at, distances
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention, SelfAttention
from seqlab.layers.crf import CRFHead
from seqlab.layers.embedding import Embedding
from seqlab.layers.heads import at_least_float32
from seqlab.layers.pooling import AttentionPooling, LastPooling, MaxPooling, MeanPooling
from seqlab.layers.recurrent.stack import Recurrence, RecurrentStack
from seqlab.layers.transformer import TransformerBlock, TransformerStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.models.decoders import TransformerDecoder
from seqlab.ragged import inside_of


class PaddedEmbedding(Embedding):
    """Tokens [N, L], or vectors [N, L, D], to [N, L, D]. Lengths do not matter."""

    def core(self, tokens: Tensor, lengths: Tensor | None, starts: Tensor | None = None) -> Tensor:
        x = tokens if tokens.is_floating_point() else F.embedding(tokens, self.weight)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        if starts is not None:
            positions = positions + starts.unsqueeze(1)
        return self.positions.embed(x, positions)


# ----------------------------------------------------------------------------------------------------------- recurrence


class PaddedRecurrence(Recurrence):
    """A recurrence as a loop in the graph."""

    def forward(self, x_NLD: Tensor, lengths: Tensor | None, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return unroll_block(self.cell, x_NLD, lengths, state, self.reverse)


class PaddedRecurrentStack(RecurrentStack):
    """Recurrent layers over a block; no order of rows is needed."""

    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        block: Any = lengths
        return self.unroll(values, block, self.initial_state(values.shape[0]) if state is None else state, block)


# ------------------------------------------------------------------------------------------------------------ attention


def attend_padded(
    q_NLHK: Tensor,
    k_NMGK: Tensor,
    v_NMGK: Tensor,
    causal: bool,
    window: int | None = None,
    bias_HR: Tensor | None = None,
    key_lengths: Tensor | None = None,
    places_NL: Tensor | None = None,
) -> Tensor:
    """Compute attention of a block, [N, L, H, K]; see seqlab/layers/attention/attend.py.

    Args:
        key_lengths: [N], how many keys there are; None: all. Causal attention needs none.
        places_NL: the place of each query; None: the last query stands at the last key.
    """
    q_NHLK, k_NGMK, v_NGMK = q_NLHK.transpose(1, 2), k_NMGK.transpose(1, 2), v_NMGK.transpose(1, 2)
    length, key_length = q_NHLK.shape[2], k_NGMK.shape[2]
    mask: Tensor | None = None
    distance_LM = torch.zeros([1, 1], dtype=torch.int64, device=q_NHLK.device)
    if places_NL is not None:  # [N, 1, L, M]
        distance_LM = (torch.arange(key_length, device=q_NHLK.device) - places_NL.unsqueeze(2)).unsqueeze(1)
        mask = allowed(distance_LM, causal, window)
    elif bias_HR is not None or window is not None or (causal and length != key_length):
        distance_LM = distances(0, length, 0, key_length, key_length - length, q_NHLK.device)
        mask = allowed(distance_LM, causal, window)
    if key_lengths is not None:
        # A query that reads nothing would get NaN, and padding would hand it on to tokens.
        there_N11M = inside_of(key_lengths.clamp(min=1), key_length).unsqueeze(1).unsqueeze(1)
        mask = there_N11M if mask is None else mask & there_N11M | (distance_LM == 0)
    if bias_HR is not None and mask is not None:
        bias = bias_at(bias_HR, distance_LM)
        if places_NL is not None:
            bias = bias.squeeze(2).transpose(0, 1)
        mask = bias.to(q_NHLK.dtype).masked_fill(mask.logical_not(), float("-inf"))
    out_NHLK = F.scaled_dot_product_attention(
        q_NHLK,
        k_NGMK,
        v_NGMK,
        attn_mask=mask,
        is_causal=causal and mask is None,
        enable_gqa=q_NHLK.shape[1] != k_NGMK.shape[1],
    )
    if key_lengths is not None:
        out_NHLK = out_NHLK * (key_lengths > 0).view(-1, 1, 1, 1)
    return out_NHLK.transpose(1, 2)


def written(kept_NMGK: Tensor, new_NLGK: Tensor, places_NL: Tensor) -> Tensor:
    """Return keys or values [N, M + L, G, K] with the new ones at their places."""
    room = torch.cat([kept_NMGK, torch.zeros_like(new_NLGK)], 1)
    return room.scatter(1, places_NL.unsqueeze(2).unsqueeze(3).expand_as(new_NLGK), new_NLGK)


def with_lengths(tensors: list[Tensor], lengths: Tensor | None) -> list[Tensor]:
    """Return the tensors, followed by the lengths of a right-padded block."""
    return tensors if lengths is None else [*tensors, lengths]


class PaddedSelfAttention(SelfAttention):
    """Self-attention inside each row. A state that goes in holds keys, values and the lengths before."""

    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        q, k, v = self.heads_of(values)
        positions = torch.arange(values.shape[1], device=values.device)
        places: Tensor | None = None
        if state is not None:
            positions = places = positions + state[2].unsqueeze(1)
        q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
        if state is not None:
            k, v = written(state[0], k, positions), written(state[1], v, positions)
        there, bias = None if self.causal else lengths, self.positions.bias(self.causal)
        out = attend_padded(q, k, v, self.causal, self.window, bias, there, places)
        return self.out(out.flatten(-2)), [] if lengths is None else [k, v]


class PaddedCrossAttention(CrossAttention):
    """Attention to the memory in the same row."""

    def remember(self, memory: Tensor, lengths: Tensor | None) -> list[Tensor]:
        return with_lengths([*self.keys_and_values_of(memory)], lengths)

    def core(self, values: Tensor, lengths: Tensor | None, memory: list[Tensor]) -> Tensor:
        q = self.query(values).unflatten(-1, [self.heads, -1])
        there = None if lengths is None else memory[-1]
        return self.out(attend_padded(q, memory[0], memory[1], False, key_lengths=there).flatten(-2))


class PaddedGlobalAttention(GlobalAttention):
    """Attention to the memory in the same row."""

    def remember(self, memory: Tensor, lengths: Tensor | None) -> list[Tensor]:
        return with_lengths([memory.unsqueeze(-2)], lengths)

    def core(self, values: Tensor, lengths: Tensor | None, memory: list[Tensor]) -> Tensor:
        q, there = self.query(values).unsqueeze(-2), None if lengths is None else memory[-1]
        return self.combined(attend_padded(q, memory[0], memory[0], False, key_lengths=there), values)


class PaddedTransformerBlock(TransformerBlock):
    """A block that is neither compiled nor checkpointed."""

    def core(
        self,
        values: Tensor,
        lengths: Tensor | None,
        state: list[Tensor] | None = None,
        memory: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        block: Any = lengths
        return self.parts(values, block, state, memory)


class PaddedTransformerStack(TransformerStack):
    """Blocks one after the other; the state is right-padded keys and values, and the lengths."""

    def remember(self, memory: Tensor, lengths: Tensor | None) -> list[Tensor]:
        block: Any = lengths
        return with_lengths(self.kept_of(memory, block), lengths)

    def core(
        self,
        values: Tensor,
        lengths: Tensor | None,
        state: list[Tensor] | None = None,
        memory: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        place, end = [], with_lengths([], lengths)
        if state is not None and lengths is not None:
            place, end = [state[-1]], [state[-1] + lengths]
        block: Any = lengths
        return self.through(values, block, state, place, memory, end)


class PaddedTransformerDecoder(TransformerDecoder):
    """A decoder whose first state is right-padded."""

    def begin(self, memory: Tensor, lengths: Tensor, last: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        source = self.stack.remember(memory, lengths)
        unused = [torch.zeros_like(rows[:, :1]) for rows in source[:-1]]  # graphs know no block of width 0
        return source, [*unused, torch.zeros_like(lengths)]


# -------------------------------------------------------------------------------------------------------------- pooling


class PaddedMeanPooling(MeanPooling):
    """[N, L, D] to [N, D]."""

    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return values.mean(1)
        sums = (values * inside_of(lengths, values.shape[1]).unsqueeze(2)).sum(1)
        return sums / lengths.clamp(min=1).unsqueeze(1)


class PaddedMaxPooling(MaxPooling):
    """[N, L, D] to [N, D]."""

    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return values.amax(1)
        there = inside_of(lengths.clamp(min=1), values.shape[1]).unsqueeze(2)  # an empty sequence reads its first row
        return values.masked_fill(~there, -float("inf")).amax(1) * (lengths > 0).unsqueeze(1)


class PaddedLastPooling(LastPooling):
    """[N, L, D] to [N, D]."""

    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        forward = values.shape[-1] - self.backward
        if lengths is None:
            return torch.cat([values[:, -1, :forward], values[:, 0, forward:]], 1)
        at = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, forward)
        ends = [values[:, :, :forward].gather(1, at).squeeze(1), values[:, 0, forward:]]
        return torch.cat(ends, 1) * (lengths > 0).unsqueeze(1)


class PaddedAttentionPooling(AttentionPooling):
    """[N, L, D] to [N, D]."""

    def core(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        scores = at_least_float32(values @ self.query.to(values.dtype))
        if lengths is None:
            return (scores.softmax(1).to(values.dtype).unsqueeze(2) * values).sum(1)
        there = inside_of(lengths.clamp(min=1), values.shape[1])
        shares_NL = scores.masked_fill(~there, -float("inf")).softmax(1).to(values.dtype)
        return (shares_NL.unsqueeze(2) * values).sum(1) * (lengths > 0).unsqueeze(1)


class PaddedCRFHead(CRFHead):
    """Tags [N, L] and their probabilities [N, L, C] of [N, L, D]; those beyond a length mean nothing."""

    def decode(self, hidden_NLD: Tensor, lengths: Tensor) -> Tensor:
        return block_viterbi(at_least_float32(self.scores(hidden_NLD)), *self.allowed(), lengths)

    def probabilities(self, hidden_NLD: Tensor, lengths: Tensor) -> Tensor:
        return block_probabilities(at_least_float32(self.scores(hidden_NLD)), *self.allowed(), lengths)


PADDED: Classes = {
    Embedding: PaddedEmbedding,
    Recurrence: PaddedRecurrence,
    RecurrentStack: PaddedRecurrentStack,
    SelfAttention: PaddedSelfAttention,
    CrossAttention: PaddedCrossAttention,
    GlobalAttention: PaddedGlobalAttention,
    TransformerBlock: PaddedTransformerBlock,
    TransformerStack: PaddedTransformerStack,
    TransformerDecoder: PaddedTransformerDecoder,
    MeanPooling: PaddedMeanPooling,
    MaxPooling: PaddedMaxPooling,
    LastPooling: PaddedLastPooling,
    AttentionPooling: PaddedAttentionPooling,
    CRFHead: PaddedCRFHead,
}


def to_padded(model: Model, recurrence: type[Recurrence] = PaddedRecurrence) -> Model:
    """Return a copy of a model, or of a layer, that reads blocks.

    Args:
        recurrence: what a recurrence is in the graph: a loop, or an operator (seqlab/exporting/formats/onnx.py).

    Raises:
        UnsuitedError: the data decides how long one of its loops runs, which no graph can hold.
    """
    if any(isinstance(module, UniversalTransformer) for module in model.modules()):
        raise UnsuitedError(
            "a universal Transformer has no graph: how many rounds a token runs depends on the data; set "
            "format=torchscript, or train model=transformer"
        )
    return exportable(model, {**PADDED, Recurrence: recurrence})
