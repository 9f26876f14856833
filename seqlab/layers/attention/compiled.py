"""Attention in machine code, all sequences and heads in one parallel loop: native/attention.cpp.

As operators of torch its two functions are seen by its profiler and its counters.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.library import custom_op

from seqlab.layers.attention.call import Call
from seqlab.layers.native import compiler
from seqlab.ragged import offsets_of


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """float32 also for what is narrower: the conversion costs less than the calls of a kernel for every run."""
    return torch.promote_types(dtype, torch.float32)


def can_run(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether there is machine code for this: heads must fill the processor's vectors."""
    dtype = computed_in(dtype)
    if not compiler.can_run("attention", device, dtype):
        return False
    return head_width % getattr(compiler.library("attention"), f"vector_{compiler.SUFFIXES[dtype]}")() == 0


def forward(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, bias_HR: Tensor | None, call: Call) -> tuple[Tensor, Tensor]:
    """The output [T, H, K], and [T * H] sums of exponentials, as logarithms."""
    q, k, v = (x.to(computed_in(x.dtype)) for x in (q_THK, k_TGK, v_TGK))
    out, log_sums = _attend(q, k, v, call.lengths, call.key_lengths, call.key_rows, call.causal, call.window or 0)
    return out.to(q_THK.dtype), log_sums


def backward(
    dout_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    bias_HR: Tensor | None,
    out_THK: Tensor,
    log_sums: Tensor,
    call: Call,
) -> tuple[Tensor, Tensor, Tensor, None]:
    """The gradients of q, k and v; the keys lie in order."""
    dtype, options = q_THK.dtype, (call.lengths, call.key_lengths, call.causal, call.window or 0)
    given = [x.to(computed_in(dtype)) for x in (dout_THK, q_THK, k_TGK, v_TGK, out_THK)]
    dq, dk, dv = _attend_backward(*given, log_sums, *options)
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), None


class _Batch(ctypes.Structure):
    """`Batch` of attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "lengths", "key_starts", "key_lengths", "key_rows")),
        *((name, ctypes.c_long) for name in ("sequences", "heads", "key_heads", "width", "causal", "window")),
    )


def _run(
    name: str,
    lengths: Tensor,
    key_lengths: Tensor,
    key_rows: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int,
    *rest: Tensor,
) -> None:
    """Calls the function of that name.

    Raises:
        ValueError: something does not fit, which C++ would not notice.
    """
    offsets, key_offsets = offsets_of(lengths), offsets_of(key_lengths)
    queries, keys = int(offsets[-1]), int(key_offsets[-1])
    rows = key_rows if key_rows is not None and keys else None
    least, most = (0, keys - 1) if rows is None else map(int, torch.aminmax(rows))
    where = [tensor.contiguous() for tensor in (offsets, lengths, key_offsets, key_lengths)]
    where += [] if rows is None else [rows.contiguous()]
    if (
        any(tensor.dtype != torch.int64 for tensor in where)
        or len(lengths) != len(key_lengths)
        or q.shape[0] != queries
        or k.shape != v.shape
        or (rows is not None and len(rows) != keys)
        or least < 0
        or k.shape[0] <= most
        or q.shape[1] % k.shape[1]
        or q.shape[2] != k.shape[2]
    ):
        raise ValueError(
            f"queries {list(q.shape)}, keys {list(k.shape)}, values {list(v.shape)} and lengths do not fit: "
            f"{len(lengths)} sequences of {queries} queries and {keys} keys, in rows {least} to {most}"
        )
    pointers = [tensor.data_ptr() for tensor in where] + [None] * (5 - len(where))
    batch = _Batch(*pointers, len(lengths), q.shape[1], k.shape[1], q.shape[2], causal, window)
    factors = (q, q.stride(0), k, k.stride(0), v, v.stride(0))
    compiler.call("attention", name, q.dtype, batch, *factors, *rest)


def _rows(x_THK: Tensor) -> Tensor:
    """Itself where the heads of a row lie side by side, as in a slice of a joint projection; else a copy."""
    return x_THK if x_THK.stride()[1:] == (x_THK.shape[2], 1) else x_THK.contiguous()


@custom_op("seqlab::attend_compiled", mutates_args=())
def _attend(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    key_rows: Tensor | None,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor]:
    q, k, v = _rows(q_THK), _rows(k_TGK), _rows(v_TGK)
    out_THK = q_THK.new_empty(q_THK.shape)
    log_sums = q_THK.new_empty(q_THK.shape[0] * q_THK.shape[1])
    _run("attend", lengths, key_lengths, key_rows, q, k, v, causal, window, out_THK, log_sums)
    return out_THK, log_sums


@custom_op("seqlab::attend_compiled_backward", mutates_args=())
def _attend_backward(
    dout_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    out_THK: Tensor,
    log_sums: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _rows(q_THK), _rows(k_TGK), _rows(v_TGK)
    dq, dk, dv = (tensor.new_empty(tensor.shape) for tensor in (q, k, v))
    back = (dout_THK.contiguous(), dq, dk, dv)
    _run("attend_backward", lengths, key_lengths, None, q, k, v, causal, window, out_THK, log_sums, *back)
    return dq, dk, dv
