"""Attention inside each sequence of a ragged batch in machine code: native/attention.cpp."""

from __future__ import annotations

import ctypes

from torch import Tensor
from torch.library import custom_op

from seqlab.layers import compiler
from seqlab.ragged import offsets_of


def can_run(q_THK: Tensor) -> bool:
    """Whether there is machine code for queries such as these: heads as wide as some of the processor's vectors."""
    if not compiler.can_run("attention", q_THK):
        return False
    return q_THK.shape[2] % getattr(compiler.library("attention"), f"vector_{compiler.SUFFIXES[q_THK.dtype]}")() == 0


class _Batch(ctypes.Structure):
    """`Batch` of attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "lengths", "key_starts", "key_lengths")),
        *((name, ctypes.c_long) for name in ("sequences", "heads", "key_heads", "width", "causal", "window")),
    )


def _run(
    name: str,
    q_THK: Tensor,
    k_UHK: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    causal: bool,
    window: int,
    *rest: Tensor | int,
) -> None:
    starts, key_starts = offsets_of(lengths), offsets_of(key_lengths)
    pointers = [tensor.data_ptr() for tensor in (starts, lengths, key_starts, key_lengths)]
    heads, width = q_THK.shape[1:]
    batch = _Batch(*pointers, lengths.shape[0], heads, k_UHK.shape[1], width, causal, window)
    compiler.call("attention", name, q_THK.dtype, batch, *rest)


def _rows(x_THK: Tensor) -> Tensor:
    """Itself where the heads of a row lie side by side, as in a slice of a joint projection; else a copy."""
    return x_THK if x_THK.stride()[1:] == (x_THK.shape[2], 1) else x_THK.contiguous()


@custom_op("seqlab::attend", mutates_args=())
def attend(
    q_THK: Tensor, k_UHK: Tensor, v_UHK: Tensor, lengths: Tensor, key_lengths: Tensor, causal: bool, window: int
) -> tuple[Tensor, Tensor]:
    """Outputs [T, H, K], and the log of every query's sum of exponentials [T, H]."""
    q, k, v = _rows(q_THK), _rows(k_UHK), _rows(v_UHK)
    out_THK = q_THK.new_empty(q_THK.shape)
    log_sums_TH = q_THK.new_empty(q_THK.shape[:2])
    factors = (q, q.stride(0), k, k.stride(0), v, v.stride(0))
    _run("attend", q, k, lengths, key_lengths, causal, window, *factors, out_THK, log_sums_TH)
    return out_THK, log_sums_TH


@custom_op("seqlab::attend_backward", mutates_args=())
def attend_backward(
    q_THK: Tensor,
    k_UHK: Tensor,
    v_UHK: Tensor,
    out_THK: Tensor,
    log_sums_TH: Tensor,
    dout_THK: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    q, k, v = _rows(q_THK), _rows(k_UHK), _rows(v_UHK)
    dq, dk, dv = (tensor.new_empty(tensor.shape) for tensor in (q, k, v))
    factors = (q, q.stride(0), k, k.stride(0), v, v.stride(0))
    made = (out_THK, log_sums_TH, dout_THK.contiguous(), dq, dk, dv)
    _run("attend_backward", q, k, lengths, key_lengths, causal, window, *factors, *made)
    return dq, dk, dv
