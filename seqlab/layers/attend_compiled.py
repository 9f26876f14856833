"""Attention in machine code, all sequences and heads in one parallel loop: native/attention.cpp.

As operators of torch its two functions are seen by its profiler and its counters.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.library import custom_op

from seqlab.layers import compiler
from seqlab.layers.attend_tiles import Call
from seqlab.ragged import offsets_of, rows_of


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
    starts = offsets_of(call.key_lengths)[:-1] if call.key_starts is None else call.key_starts
    q, k, v = (x.to(computed_in(x.dtype)) for x in (q_THK, k_TGK, v_TGK))
    out, log_sums = _attend(q, k, v, call.lengths, call.key_lengths, starts, call.causal, call.window or 0)
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
    """The gradients of q, k and v."""
    dtype, asked = q_THK.dtype, (call.lengths, call.key_lengths, call.causal, call.window or 0)
    given = [x.to(computed_in(dtype)) for x in (dout_THK, q_THK, k_TGK, v_TGK, out_THK)]
    if call.key_starts is None:
        dq, dk, dv = _attend_backward(*given, log_sums, *asked)
        return dq.to(dtype), dk.to(dtype), dv.to(dtype), None
    rows = rows_of(call.key_starts, call.key_lengths)  # sequences may share rows of keys, and between them may be room
    given[2:4] = (x.index_select(0, rows) for x in given[2:4])
    dq, *grads = _attend_backward(*given, log_sums, *asked)
    dk, dv = (d.new_zeros(x.shape).index_add_(0, rows, d) for x, d in zip((k_TGK, v_TGK), grads, strict=True))
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), None


class _Batch(ctypes.Structure):
    """`Batch` of attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "lengths", "key_starts", "key_lengths")),
        *((name, ctypes.c_long) for name in ("sequences", "heads", "key_heads", "width", "causal", "window")),
    )


def _run(
    name: str, where: list[Tensor], q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int, *rest: Tensor
) -> None:
    """Calls the function of that name; `where`: starts, lengths, key_starts, key_lengths.

    Raises:
        ValueError: something does not fit, which C++ would not notice.
    """
    where = [tensor.contiguous() for tensor in where]
    _, lengths, key_starts, key_lengths = where
    rows = int((key_starts + key_lengths).max()) if len(key_starts) else 0
    if (
        any(tensor.dtype != torch.int64 or tensor.shape != lengths.shape for tensor in where)
        or q.shape[0] != int(lengths.sum())
        or k.shape != v.shape
        or k.shape[0] < rows
        or q.shape[1] % k.shape[1]
        or q.shape[2] != k.shape[2]
    ):
        raise ValueError(
            f"queries {list(q.shape)}, keys {list(k.shape)}, values {list(v.shape)} and lengths do not fit: "
            f"{len(lengths)} sequences of {int(lengths.sum())} queries and up to row {rows} of keys"
        )
    pointers = [tensor.data_ptr() for tensor in where]
    batch = _Batch(*pointers, len(where[0]), q.shape[1], k.shape[1], q.shape[2], causal, window)
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
    key_starts: Tensor,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor]:
    q, k, v = _rows(q_THK), _rows(k_TGK), _rows(v_TGK)
    out_THK = q_THK.new_empty(q_THK.shape)
    log_sums = q_THK.new_empty(q_THK.shape[0] * q_THK.shape[1])
    where = [offsets_of(lengths)[:-1], lengths, key_starts, key_lengths]
    _run("attend", where, q, k, v, causal, window, out_THK, log_sums)
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
    where = [offsets_of(lengths)[:-1], lengths, offsets_of(key_lengths)[:-1], key_lengths]
    _run("attend_backward", where, q, k, v, causal, window, out_THK, log_sums, dout_THK.contiguous(), dq, dk, dv)
    return dq, dk, dv
