"""Attention from some of the tokens of each sequence: those of a universal Transformer that have not halted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqlab.ragged import joint_runs_of


def attend_some(q_THK: Tensor, places_T: Tensor, counts: Tensor, kv: Tensor, seen: Tensor, causal: bool) -> Tensor:
    """Compute attention from some of the tokens of each sequence (Vaswani et al. 2017, section 3.2.1), [T, H, K].

    Of sequence b, `counts[b]` queries stand at `places_T` and read the keys and values `kv` [T', 2, H, K] of its first
    `seen[b]` tokens. A causal query reads up to its own place, and the last query stands at the last key. In a sequence
    of 5, causal:

        queries at 1 and 3    seen 4    mask 1 1 0 0  /  1 1 1 1
        queries at 0 and 1    seen 2    all of them: the kernel's own causal mask
        query at 3            seen 4    nothing to mask
    """
    outputs = [q_THK[:0]]
    runs = joint_runs_of(counts, seen)
    queries: list[int] = []
    keys: list[int] = []
    for _, _, count, length, key_length in runs:
        queries.append(count * length)
        keys.append(count * key_length)
    q, places, k_and_v = q_THK.split(queries), places_T.split(queries), kv.split(keys)  # gradients join in one node
    for i in range(len(runs)):
        _, _, count, length, key_length = runs[i]
        q_NHLK = q[i].unflatten(0, [count, length]).transpose(1, 2)
        k_NHLK, v_NHLK = k_and_v[i].unflatten(0, [count, key_length]).transpose(1, 3).unbind(2)
        if causal and 1 < length < key_length:
            mask = places[i].view(count, 1, length, 1) >= torch.arange(key_length, device=q_THK.device)
            out_NHLK = F.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK, attn_mask=mask)
        else:
            out_NHLK = F.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK, is_causal=causal and length > 1)
        outputs.append(out_NHLK.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)
