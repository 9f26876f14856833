"""Self-attention over runs: neighbouring sequences of equal length are, without a copy, a dense [N, L, H, K] block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.backend import is_fast
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import Positions
from seqlab.ragged import joint_runs_of, rows_of, runs_of, segments_of

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _block(x_THK: Tensor, start: int, count: int, length: int) -> Tensor:
    """The run's rows as a view [N, H, L, K], the shape in which attention kernels read."""
    return x_THK[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2)


class _AttendRuns(torch.autograd.Function):
    """The CPU's flash kernel on every run, with the rows of all runs joined once, forward and backward.

    As separate calls, each run's slices would send back gradients the size of the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, lengths: Tensor, causal: bool) -> Tensor:
        runs = runs_of(lengths)
        outputs, log_sums = [], []
        for run in runs:
            out, log_sum = _flash(_block(q_THK, *run), _block(k_THK, *run), _block(v_THK, *run), 0.0, causal)
            outputs.append(out.transpose(1, 2).flatten(0, 1))
            log_sums.append(log_sum)
        out_THK = torch.cat(outputs) if outputs else torch.empty_like(q_THK)
        ctx.save_for_backward(q_THK, k_THK, v_THK, out_THK, *log_sums)
        ctx.runs, ctx.causal = runs, causal
        return out_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, k_THK, v_THK, out_THK, *log_sums = ctx.saved_tensors
        rows = (dout_THK, q_THK, k_THK, v_THK, out_THK)
        grads = []
        for run, log_sum in zip(ctx.runs, log_sums, strict=True):
            blocks = [_block(x_THK, *run) for x_THK in rows]
            parts = _flash_backward(*blocks, log_sum, 0.0, ctx.causal)
            grads.append([part.transpose(1, 2).flatten(0, 1) for part in parts])
        if not grads:
            return torch.zeros_like(q_THK), torch.zeros_like(k_THK), torch.zeros_like(v_THK), None, None
        dq, dk, dv = (torch.cat(parts) for parts in zip(*grads, strict=True))
        return dq, dk, dv, None, None


def attend(q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, lengths: Tensor, key_lengths: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention inside each sequence (Vaswani et al. 2017, section 3.2.1).

    Queries [T, H, K] with `lengths` [B] read keys and values [T', H, K] with `key_lengths` [B]; a causal query reads
    the keys up to its own place, the last query of a sequence standing at its last key.
    """
    if not torch.jit.is_scripting():
        if is_fast() and q_THK.device.type == "cpu" and lengths is key_lengths:
            return _AttendRuns.apply(q_THK, k_THK, v_THK, lengths, causal)
    outputs = [q_THK[:0]]
    for start, key_start, count, length, key_length in joint_runs_of(lengths, key_lengths):
        q_NHLK = _block(q_THK, start, count, length)
        k_NHLK = _block(k_THK, key_start, count, key_length)
        v_NHLK = _block(v_THK, key_start, count, key_length)
        if causal and 1 < length < key_length:
            mask = torch.ones(length, key_length, dtype=torch.bool, device=q_THK.device).tril(key_length - length)
            out_NHLK = F.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK, attn_mask=mask)
        else:
            out_NHLK = F.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK, is_causal=causal and length == key_length)
        outputs.append(out_NHLK.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


class SelfAttention(SequenceLayer):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2).

    Args:
        width: model width D; the heads share it, K = D / H.
        heads: how many heads H.
        causal: a token reads only itself and those before it.
        positions: acts on queries and keys by its `rotate`.
    """

    def __init__(self, width: int, heads: int, causal: bool, positions: Positions) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}")
        self.heads = heads
        self.causal = causal
        self.positions = positions
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    @torch.jit.unused
    def flops(self, lengths: Tensor) -> float:
        pairs = int((lengths * (lengths + 1) // 2 if self.causal else lengths * lengths).sum())
        weights = self.qkv.weight.numel() + self.out.weight.numel()
        return 6.0 * weights * int(lengths.sum()) + 12.0 * self.out.in_features * pairs

    @torch.jit.export
    def core(
        self, values: Tensor, lengths: Tensor | None, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`state`: keys and values [T', H, K] of the tokens already read, and their number in each sequence [B]."""
        q, k, v = self.qkv(values).unflatten(-1, [3, self.heads, -1]).unbind(-3)
        if lengths is None:  # [N, L, D]: attention is dense as it stands
            positions = torch.arange(values.shape[1], device=values.device)
            q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=self.causal
            )
            return self.out(out.transpose(1, 2).flatten(-2)), []
        key_lengths = lengths
        positions = rows_of(torch.zeros_like(lengths) if state is None else state[2], lengths).to(values.device)
        q, k = self.positions.rotate(q, positions), self.positions.rotate(k, positions)
        if state is not None:
            key_lengths = state[2] + lengths
            segments = torch.cat([segments_of(state[2]), segments_of(lengths)])
            joined = torch.argsort(segments, stable=True).to(
                values.device
            )  # each sequence: old keys, then its new ones
            k = torch.cat([state[0], k])[joined]
            v = torch.cat([state[1], v])[joined]
        out = attend(q, k, v, lengths, key_lengths, self.causal)
        return self.out(out.flatten(-2)), [k, v, key_lengths]
