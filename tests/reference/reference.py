"""The same layers for one sequence, slow and obvious: the tests' oracle.

Every function takes a layer (for its parameters) and one sequence [L, D], and follows the published equation token by
token. Nothing here knows of batches, layouts or fast paths, and nothing outside the tests uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention, SelfAttention
from seqlab.layers.crf import CRFHead
from seqlab.layers.embedding import Embedding
from seqlab.layers.mlp import SwiGLU
from seqlab.layers.positions import LearnedPositions, Positions, RelativePositions, RotaryPositions, SinusoidalPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.recurrent.stack import Recurrence, RecurrentStack
from seqlab.layers.transformer import TransformerBlock, TransformerStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.layers.word_vectors import WordVectors


def tanh_step(cell: TanhCell, x_D: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Elman 1990."""
    return [torch.tanh(cell.weight_ih @ x_D + cell.bias_ih + cell.weight_hh @ state[0] + cell.bias_hh)]


def lstm_step(cell: LSTMCell, x_D: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Gers, Schmidhuber & Cummins 2000, section 3, gate by gate."""
    h, c = state
    size = cell.hidden_size

    def gate(k: int, squash: Callable[[Tensor], Tensor]) -> Tensor:
        rows = slice(k * size, (k + 1) * size)
        return squash(cell.weight_ih[rows] @ x_D + cell.bias_ih[rows] + cell.weight_hh[rows] @ h + cell.bias_hh[rows])

    i, f, g, o = gate(0, torch.sigmoid), gate(1, torch.sigmoid), gate(2, torch.tanh), gate(3, torch.sigmoid)
    c = f * c + i * g
    return [o * torch.tanh(c), c]


def gru_step(cell: GRUCell, x_D: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Cho et al. 2014, section 2.3, with the reset gate after the product."""
    (h,) = state
    w_r, w_z, w_n = cell.weight_ih.chunk(3)
    u_r, u_z, u_n = cell.weight_hh.chunk(3)
    b_r, b_z, b_n = cell.bias_ih.chunk(3)
    d_r, d_z, d_n = cell.bias_hh.chunk(3)
    r = torch.sigmoid(w_r @ x_D + b_r + u_r @ h + d_r)
    z = torch.sigmoid(w_z @ x_D + b_z + u_z @ h + d_z)
    n = torch.tanh(w_n @ x_D + b_n + r * (u_n @ h + d_n))
    return [(1 - z) * n + z * h]


def positive(x: Tensor) -> Tensor:
    """Feng et al. 2024, appendix B, the function g."""
    return torch.where(x >= 0, x + 0.5, 1 / (1 + torch.exp(-x)))


def min_gru_step(cell: MinGRUCell, x_D: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Feng et al. 2024, section 3.1, with g of appendix B."""
    w_z, w_h = cell.gates.weight.chunk(2)
    b_z, b_h = cell.gates.bias.chunk(2)
    z = torch.sigmoid(w_z @ x_D + b_z)
    return [(1 - z) * state[0] + z * positive(w_h @ x_D + b_h)]


def min_lstm_step(cell: MinLSTMCell, x_D: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Feng et al. 2024, section 3.2, with g of appendix B."""
    w_f, w_i, w_h = cell.gates.weight.chunk(3)
    b_f, b_i, b_h = cell.gates.bias.chunk(3)
    f, i = torch.sigmoid(w_f @ x_D + b_f), torch.sigmoid(w_i @ x_D + b_i)
    return [f / (f + i) * state[0] + i / (f + i) * positive(w_h @ x_D + b_h)]


EQUATIONS: list[tuple[type[nn.Module], Callable[..., list[Tensor]]]] = [
    (TanhCell, tanh_step),
    (LSTMCell, lstm_step),
    (GRUCell, gru_step),
    (MinGRUCell, min_gru_step),
    (MinLSTMCell, min_lstm_step),
]


def step(cell: nn.Module, x_D: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One token; a cell of the user's own has no equation here, and is its own reference for a batch of one."""
    for kind, equation in EQUATIONS:
        if isinstance(cell, kind):
            after = equation(cell, x_D, [s[0] for s in state])
            return after[0], [s[None] for s in after]
    x_1D = x_D[None]
    output_1H, state = cell(cell.project(x_1D) if hasattr(cell, "project") else x_1D, state)
    return output_1H[0], state


def recurrence(layer: Recurrence, x_LD: Tensor, state: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of one direction, in the order of the tokens, and the state after the last that it reads."""
    outputs = []
    for x_D in x_LD.flip(0) if layer.reverse else x_LD:
        output, state = step(layer.cell, x_D, state)
        outputs.append(output)
    return outputs[::-1] if layer.reverse else outputs, state


def recurrent_stack(
    stack: RecurrentStack, x_LD: Tensor, begin: list[list[Tensor]] | None = None
) -> tuple[Tensor, list[list[Tensor]]]:
    """[L, D] to [L, H], without dropout, and the states at the end of all directions; L may be 0.

    They begin with `begin`, or each in its initial state.
    """
    y = x_LD
    ends: list[list[Tensor]] = []
    for layer in stack.layers:
        x = y
        directions = []
        for one in layer:
            outputs, end = recurrence(one, x, begin[len(ends)] if begin else one.cell.initial_state(1))
            directions.append(outputs)
            ends.append(end)
        rows = [torch.cat(outputs) for outputs in zip(*directions, strict=True)]
        y = torch.stack(rows) if rows else x.new_zeros(0, stack.output_size)
        if stack.residual and y.shape == x.shape:
            y = y + x
    return y, ends


def rotate(positions: Positions, q_LHK: Tensor) -> Tensor:
    """Su et al. 2021, equation 12: feature pairs as complex numbers, multiplied by exp(i * position * frequency)."""
    if not isinstance(positions, RotaryPositions):
        return q_LHK
    half = q_LHK.shape[-1] // 2
    rows = []
    for position, q_HK in enumerate(q_LHK):
        theta = torch.tensor([position * positions.base ** (-2 * i / q_LHK.shape[-1]) for i in range(half)])
        turned = torch.complex(q_HK[:, :half], q_HK[:, half:]) * torch.polar(torch.ones_like(theta), theta)
        rows.append(torch.cat([turned.real, turned.imag], -1))
    return torch.stack(rows) if rows else q_LHK


def relative_bias(positions: Positions, head: int, distance: int, causal: bool) -> Tensor:
    """Raffel et al. 2020, section 2.1: the number for `distance` = place of key - place of query."""
    if not isinstance(positions, RelativePositions):
        return torch.zeros(())
    buckets = len(positions.table) // (1 if causal else 2)
    bucket, exact = abs(distance), buckets // 2
    if bucket >= exact:  # those wider than one: each begins where a geometric sequence from exact to max_distance does
        growth = (positions.max_distance / exact) ** (1 / (buckets - exact))
        begins = [exact * growth**i for i in range(buckets - exact)]
        bucket = exact - 1 + sum(abs(distance) >= begin - 1e-6 for begin in begins)
    return positions.table[bucket + (buckets if distance > 0 and not causal else 0), head]


def self_attention(layer: SelfAttention, x_LD: Tensor) -> Tensor:
    """Vaswani et al. 2017, equation 1, query by query and head by head."""
    length, width = x_LD.shape
    if length == 0:
        return x_LD
    head_width = width // layer.heads
    q, k, v = layer.qkv(x_LD).split([width, layer.kv_heads * head_width, layer.kv_heads * head_width], 1)
    q, k, v = (part.reshape(length, -1, head_width) for part in (q, k, v))
    q, k = rotate(layer.positions, q), rotate(layer.positions, k)
    rows = []
    for i in range(length):
        seen = [j for j in range(length) if j <= i or not layer.causal]
        if layer.window is not None:
            seen = [j for j in seen if abs(i - j) < layer.window]
        heads = []
        for h in range(layer.heads):
            g = h // (layer.heads // layer.kv_heads)
            bias = torch.stack([relative_bias(layer.positions, h, j - i, layer.causal) for j in seen])
            heads.append(torch.softmax(k[seen, g] @ q[i, h] / math.sqrt(head_width) + bias, 0) @ v[seen, g])
        rows.append(torch.cat(heads))
    return layer.out(torch.stack(rows))


def cross_attention(layer: CrossAttention, x_LD: Tensor, memory_MD: Tensor) -> Tensor:
    """Vaswani et al. 2017, section 3.2.3; where there is nothing to read, attention gives zeros."""
    head_width = x_LD.shape[1] // layer.heads
    keys_and_values = layer.key_value(memory_MD)
    rows = [x_LD.new_zeros(0, x_LD.shape[1])]
    for x_D in x_LD:
        heads = []
        for h, q in enumerate(layer.query(x_D).split(head_width)):
            g = h // (layer.heads // layer.kv_heads)
            k, v = (keys_and_values[:, (half * layer.kv_heads + g) * head_width :][:, :head_width] for half in (0, 1))
            heads.append(torch.softmax(k @ q / math.sqrt(head_width), 0) @ v if len(memory_MD) else 0 * q)
        rows.append(layer.out(torch.cat(heads))[None])
    return torch.cat(rows)


def global_attention(layer: GlobalAttention, x_LD: Tensor, memory_MD: Tensor) -> Tensor:
    """Luong, Pham & Manning 2015, equations 5, 7 and 8 (general), with a root; nothing to read gives a context of 0."""
    rows = [x_LD.new_zeros(0, x_LD.shape[1])]
    for h_D in x_LD:
        context = h_D.new_zeros(memory_MD.shape[1])
        if len(memory_MD):
            scores_M = memory_MD @ (layer.query.weight @ h_D) / math.sqrt(memory_MD.shape[1])
            context = torch.softmax(scores_M, 0) @ memory_MD
        rows.append(torch.tanh(layer.combine(torch.cat([context, h_D])))[None])
    return torch.cat(rows)


def norm(layer: nn.Module, x_LD: Tensor) -> Tensor:
    """Ba et al. 2016, equations 3 and 4; Zhang & Sennrich 2019, equation 4."""
    if isinstance(layer, nn.RMSNorm):
        return x_LD / (x_LD.square().mean(1, keepdim=True) + layer.eps).sqrt() * layer.weight
    centred = x_LD - x_LD.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def mlp(layers: nn.Sequential, x_LD: Tensor) -> Tensor:
    """Vaswani et al. 2017, section 3.3, with GELU (Hendrycks & Gimpel 2016); Shazeer 2020, equation 6."""
    first, activation, last = layers
    if isinstance(activation, SwiGLU):
        (w, v), (b, c) = first.weight.chunk(2), first.bias.chunk(2)
        gate = x_LD @ w.t() + b
        return last(gate * torch.sigmoid(gate) * (x_LD @ v.t() + c))
    hidden = first(x_LD)
    return last(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def transformer_block(block: TransformerBlock, x_LD: Tensor, memory_MD: Tensor | None) -> Tensor:
    """Xiong et al. 2020, figure 1 (b), without dropout; with a memory as in Vaswani et al. 2017, section 3.1."""
    x_LD = x_LD + self_attention(block.attention, norm(block.attention_norm, x_LD))
    if block.cross is not None and memory_MD is not None:
        x_LD = x_LD + cross_attention(block.cross, norm(block.cross_norm, x_LD), memory_MD)
    return x_LD + mlp(block.mlp, norm(block.mlp_norm, x_LD))


def transformer_stack(stack: TransformerStack, x_LD: Tensor, memory_MD: Tensor | None = None) -> Tensor:
    """[L, D] to [L, D]; L may be 0."""
    for block in stack.blocks:
        assert isinstance(block, TransformerBlock)
        x_LD = transformer_block(block, x_LD, memory_MD)
    return norm(stack.norm, x_LD)


def universal_transformer(layer: UniversalTransformer, x_LD: Tensor) -> tuple[Tensor, list[int], Tensor]:
    """Dehghani et al. 2019, section 2, with Graves 2016, section 2: outputs [L, D], rounds N, remainders R [L]."""
    length, width = x_LD.shape
    if length == 0:
        return x_LD, [], x_LD.new_ones(0)
    tokens = range(length)
    states = list(x_LD)
    rounds = [0] * length
    halted = [False] * length
    probabilities: list[list[Tensor]] = [[] for _ in tokens]
    terms: list[list[Tensor]] = [[] for _ in tokens]  # of the mean
    keys = values = [x_LD.new_zeros(0)] * length
    remainders = [x_LD.new_ones(())] * length
    for n in range(1, layer.max_steps + 1):
        inputs = layer.attention_norm(torch.stack([state + layer.signal[n - 1] for state in states]))
        q = rotate(layer.positions, layer.query(inputs).reshape(length, layer.heads, -1))
        k, v = layer.key_value(inputs).reshape(length, 2, layer.heads, -1).unbind(1)
        k = rotate(layer.positions, k)
        # A token that did not run in the round before is only copied, and shows what it showed.
        keys = [k[i] if rounds[i] == n - 1 else keys[i] for i in tokens]
        values = [v[i] if rounds[i] == n - 1 else values[i] for i in tokens]
        for i in [i for i in tokens if not halted[i]]:
            seen = i + 1 if layer.causal else length
            heads = []
            for h in range(layer.heads):
                scores = torch.stack(keys[:seen])[:, h] @ q[i, h] / math.sqrt(width // layer.heads)
                heads.append(torch.softmax(scores, 0) @ torch.stack(values[:seen])[:, h])
            state = states[i] + layer.signal[n - 1] + layer.out(torch.cat(heads))
            states[i] = state + layer.mlp(layer.mlp_norm(state))
            output = layer.norm(states[i])
            probability = torch.sigmoid(layer.halting(output))[0] if layer.halting is not None else 0 * output[0]
            remainders[i] = 1 - sum(probabilities[i], start=x_LD.new_zeros(()))
            halted[i] = n == layer.max_steps or bool(remainders[i] - probability <= layer.epsilon)
            rounds[i] = n
            probabilities[i].append(probability)
            terms[i].append((remainders[i] if halted[i] else probability) * output)
    return torch.stack([torch.stack(parts).sum(0) for parts in terms]), rounds, torch.stack(remainders)


def embedding(layer: Embedding, tokens_L: Tensor) -> Tensor:
    """One row per token, and what the scheme of positions adds to it."""
    rows = []
    for position, token in enumerate(tokens_L.tolist()):
        row = layer.weight[token]
        if isinstance(layer.positions, LearnedPositions):
            row = row + layer.positions.table[position]
        if isinstance(layer.positions, SinusoidalPositions):  # Vaswani et al. 2017, section 3.5
            width = layer.positions.width
            angles = [position / 10_000 ** (2 * i / width) for i in range(width // 2)]
            row = row + torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=row.dtype)
        rows.append(row)
    return torch.stack(rows) if rows else layer.weight[:0]


def word_vector(layer: WordVectors, pieces_LD: Tensor, word: int | None) -> Tensor:
    """Lample et al. 2016, section 4.1, without dropout: the state after the last piece, and that after the first."""
    forward, backward = (recurrence(one, pieces_LD, one.cell.initial_state(1))[0] for one in layer.recurrence.layers[0])
    zeros = pieces_LD.new_zeros(layer.recurrence.output_size // 2)
    parts = [forward[-1], backward[0]] if len(pieces_LD) else [zeros, zeros]
    if layer.weight is not None:
        parts.append(layer.weight[word])
    return layer.out.weight @ torch.cat(parts) + layer.out.bias


def crf_paths(head: CRFHead, hidden_LD: Tensor, allowed: bool) -> dict[tuple[int, ...], Tensor]:
    """Lafferty et al. 2001, section 3: every path of tags and its score, in all, or of those allowed."""
    scores_LC = hidden_LD @ head.weight.t() + head.bias
    paths = {}
    for path in product(range(len(head.bias)), repeat=len(hidden_LD)):
        steps = list(pairwise(path))
        legal = all(head.allowed_transitions[i, j] for i, j in steps)
        legal = legal and (not path or bool(head.allowed_start[path[0]] & head.allowed_end[path[-1]]))
        if legal or not allowed:
            parts = [scores_LC[t, tag] for t, tag in enumerate(path)] + [head.transitions[i, j] for i, j in steps]
            ends = [head.start[path[0]], head.end[path[-1]]] if path else []
            paths[path] = sum(parts + ends, start=scores_LC.sum() * 0)
    return paths


def stack(layer: nn.Module, x_LD: Tensor) -> Tensor:
    """Whichever of the stacks it is."""
    if isinstance(layer, UniversalTransformer):
        return universal_transformer(layer, x_LD)[0]
    return recurrent_stack(layer, x_LD)[0] if isinstance(layer, RecurrentStack) else transformer_stack(layer, x_LD)
