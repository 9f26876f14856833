"""Attention inside each sequence of a ragged batch: what it computes, and which kernel computes it.

Queries [T, H, K] with `lengths` [B] read keys and values [T', G, K] with `key_lengths` [B]. The query heads H are a
multiple of the key heads G; head h reads key head h // (H / G) (grouped queries, Ainslie et al. 2023, section 2.2).

A place is a token's number in its sequence; the last query stands at the last key. With d = place of key - of query:

    causal                 a query reads the keys with d <= 0
    causal, window w       -w < d <= 0: its last w keys, itself included
    window w               -w < d < w; as many keys as queries
    bias_HR                R = 2 r + 1 columns: head h adds bias[h, r + d] to a score; beyond -r and r, the outermost

A query that reads nothing gets zeros. `compiled.py`, `tiles.py` and `packed.py` hold the fast
kernels; one autograd function stands before all of them. The plain path is one block of ordinary operators per run.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqlab.layers.attention import compiled, tiles
from seqlab.layers.attention.call import Call, allowed, bias_at, distances, rows_as_block, sum_dtype
from seqlab.layers.backend import is_fast
from seqlab.ragged import joint_runs_of

Kernel = Literal["compiled", "flash", "explicit", "varlen", "efficient"]

_NAMES = {
    "compiled": "machine code of our own",
    "flash": "the CPU's flash kernel on runs of equal length",
    "explicit": "explicit probabilities on runs of equal length",
    "varlen": "varlen_attn on packed rows",
    "efficient": "the memory-efficient kernel on packed rows",
}


def choose(
    device: torch.device,
    dtype: torch.dtype,
    head_width: int,
    window: bool = False,
    grouped: bool = False,
    weighted: bool = False,
) -> Kernel:
    """Return the kernel for a call. `weighted`: there is a bias or dropout, which no kernel has with a gradient."""
    if weighted:
        return "explicit"
    if device.type == "cpu":
        return "compiled" if compiled.can_run(device, dtype, head_width) else "flash"
    if device.type == "cuda":
        from seqlab.layers.attention import packed  # here, because it loads torch's compiler, which takes 2 s

        half = dtype in (torch.float16, torch.bfloat16)
        if half and packed.varlen_fits(device, head_width, window, grouped):
            return "varlen"
        if (half or dtype == torch.float32) and packed.efficient_fits(head_width, window):
            return "efficient"
    return "explicit"


def describe(
    device: torch.device,
    dtype: torch.dtype,
    head_width: int = 64,
    window: bool = False,
    grouped: bool = False,
    weighted: bool = False,
) -> str:
    """Return the name of that kernel."""
    return _NAMES[choose(device, dtype, head_width, window, grouped, weighted)]


def attend(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    causal: bool,
    window: int | None = None,
    bias_HR: Tensor | None = None,
    dropout: float = 0.0,
    key_rows: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(K) + bias) v inside each sequence (Vaswani et al. 2017, section 3.2.1), [T, H, K].

    Args:
        q_THK, k_TGK, v_TGK, lengths, key_lengths, causal, window, bias_HR: see the head of this file.
        dropout: share of the probabilities zeroed. It costs the flash kernel: probabilities are then written out, the
            N H L L' numbers of a run at a time (where causal, for 128 queries of each), forward and again backward.
        key_rows: [T''] int64, the row of every key in k and v, sequence after sequence; sequences may share rows. None:
            they lie in this order.

    Raises:
        ValueError: a window that is not causal, and numbers of keys and queries that differ.
    """
    compiling = torch.compiler.is_compiling()  # a compiler may not look at lengths
    if not compiling and not is_fast():
        return attend_plain(q_THK, k_TGK, v_TGK, lengths, key_lengths, causal, window, bias_HR, dropout, key_rows)
    if not compiling:
        require_alike(lengths, key_lengths, causal, window)
    k_TGK, v_TGK = k_TGK.to(q_THK.dtype), v_TGK.to(q_THK.dtype)  # a cache may be of another precision
    seed = torch.randint(2**62, (1,)) if dropout else None
    options = (seed, lengths, key_lengths, key_rows, causal, window, dropout)
    if compiling:
        return _opaque_attend(q_THK, k_TGK, v_TGK, bias_HR, *options)[0]
    return _Attend.apply(q_THK, k_TGK, v_TGK, bias_HR, *options)


def require_alike(lengths: Tensor, key_lengths: Tensor, causal: bool, window: int | None) -> None:
    """Raise ValueError if a window that is not causal meets numbers of keys and queries that differ."""
    if window is not None and not causal and not torch.equal(lengths, key_lengths):
        raise ValueError("a window that is not causal needs as many keys as queries in every sequence")


def attend_plain(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
    causal: bool,
    window: int | None = None,
    bias_HR: Tensor | None = None,
    dropout: float = 0.0,
    key_rows: Tensor | None = None,
) -> Tensor:
    """Compute `attend` by ordinary operators, a dense block for each run."""
    require_alike(lengths, key_lengths, causal, window)
    k_TGK, v_TGK = k_TGK.to(q_THK.dtype), v_TGK.to(q_THK.dtype)
    if key_rows is not None:
        key_rows = key_rows.to(k_TGK.device)
        k_TGK, v_TGK = k_TGK.index_select(0, key_rows), v_TGK.index_select(0, key_rows)
    outputs = [q_THK[:0]]
    for start, key_start, count, length, key_length in joint_runs_of(lengths, key_lengths):
        q_NHLK = rows_as_block(q_THK, start, count, length)
        if key_length == 0:
            out_NHLK = torch.zeros_like(q_NHLK)
        else:
            k_NGLK = rows_as_block(k_TGK, key_start, count, key_length)
            v_NGLK = rows_as_block(v_TGK, key_start, count, key_length)
            out_NHLK = attend_block(q_NHLK, k_NGLK, v_NGLK, causal, window, bias_HR, dropout)
        outputs.append(out_NHLK.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def attend_block(
    q_NHLK: Tensor,
    k_NGLK: Tensor,
    v_NGLK: Tensor,
    causal: bool,
    window: int | None = None,
    bias_HR: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Compute attention of N sequences of one length and one number of keys, [N, H, L, K]."""
    length, key_length = q_NHLK.shape[2], k_NGLK.shape[2]
    mask: Tensor | None = None
    if bias_HR is not None or window is not None or (causal and length != key_length):
        distance_LM = distances(0, length, 0, key_length, key_length - length, q_NHLK.device)
        mask = allowed(distance_LM, causal, window)
        if bias_HR is not None:
            bias = bias_at(bias_HR, distance_LM)
            mask = bias.to(q_NHLK.dtype).masked_fill(mask.logical_not(), float("-inf"))
    return F.scaled_dot_product_attention(
        q_NHLK,
        k_NGLK,
        v_NGLK,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None,
        enable_gqa=q_NHLK.shape[1] != k_NGLK.shape[1],
    )


# ------------------------------------------------------------------------- one autograd function before all kernels


def _call(q_THK: Tensor, k_TGK: Tensor, bias_HR: Tensor | None, *options: Any) -> Call:
    """Return the call with the kernel chosen for it."""
    *_, window, dropout = options
    grouped, weighted = q_THK.shape[1] != k_TGK.shape[1], bias_HR is not None or dropout > 0
    return Call(choose(q_THK.device, q_THK.dtype, q_THK.shape[2], window is not None, grouped, weighted), *options)


def _module(call: Call) -> Any:
    if call.kernel == "compiled":
        return compiled
    if call.kernel in ("flash", "explicit"):
        return tiles
    from seqlab.layers.attention import packed  # see choose

    return packed


def _to_gather(call: Call, k_TGK: Tensor) -> Tensor | None:
    """The rows of the keys, on their device; None if they lie in order."""
    rows = call.key_rows
    if rows is None or (len(rows) == len(k_TGK) and torch.equal(rows, torch.arange(len(rows)))):
        return None
    return rows.to(k_TGK.device)


def _forward(call: Call, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = None if call.kernel == "compiled" else _to_gather(call, k)  # which reads them wherever they lie
    if rows is not None:
        k, v = k.index_select(0, rows), v.index_select(0, rows)
    return _module(call).forward(q, k, v, bias, call)


def _backward(
    call: Call, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *saved: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    rows = _to_gather(call, k)
    if rows is None:
        return _module(call).backward(dout, q, k, v, *saved, call)
    keys, values = k.index_select(0, rows), v.index_select(0, rows)
    dq, dk, dv, dbias = _module(call).backward(dout, q, keys, values, *saved, call)
    dk, dv = (torch.zeros_like(x).index_add_(0, rows, dx) for x, dx in ((k, dk), (v, dv)))  # sequences may share rows
    return dq, dk, dv, dbias


class _Attend(torch.autograd.Function):
    """The rows of all sequences joined once, forward and backward.

    As separate calls, each run's slices would send back gradients the size of the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, bias_HR: Tensor | None, *options: Any) -> Tensor:
        ctx.call = _call(q_THK, k_TGK, bias_HR, *options)
        out_THK, log_sums = _forward(ctx.call, q_THK, k_TGK, v_TGK, bias_HR)
        ctx.save_for_backward(q_THK, k_TGK, v_TGK, bias_HR, out_THK, log_sums)
        return out_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_THK: Tensor) -> tuple[Tensor | None, ...]:
        grads = _backward(ctx.call, dout_THK, *ctx.saved_tensors)
        return *grads, *(None,) * 7


# The same as one operator that a compiler does not look into: it would make a guard of every length. Used only while
# compiling; in eager mode the function above costs less per call.

_OPTIONS = "Tensor? seed, Tensor lengths, Tensor key_lengths, Tensor? key_rows, bool causal, int? window, float dropout"


@torch.library.custom_op(
    "seqlab::attend",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, Tensor? bias, {_OPTIONS}) -> (Tensor, Tensor)",
)
def _opaque_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    call = _call(q, k, bias, *options)
    out, log_sums = _forward(call, q, k, v, bias)
    return out.contiguous(), log_sums  # as the compiler has been told


@_opaque_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    *where, causal, window, dropout = options
    kernel = _call(q, k, bias, *where[:3], None, causal, window, dropout).kernel
    log_sums = 0 if kernel == "efficient" else q.shape[0] * q.shape[1]
    return q.new_empty(q.shape), q.new_empty(log_sums, dtype=sum_dtype(q.dtype))


@torch.library.custom_op(
    "seqlab::attend_backward",
    mutates_args=(),
    schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor out, Tensor log_sums, "
    f"{_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _opaque_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, log_sums: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _call(q, k, bias, *options)
    dq, dk, dv, dbias = _backward(call, dout, q, k, v, bias, out, log_sums)
    return dq.contiguous(), dk.contiguous(), dv.contiguous(), q.new_empty(0) if dbias is None else dbias.contiguous()


@_opaque_backward.register_fake
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, out: Tensor, log_sums: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dbias = q.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.causal, ctx.window, ctx.dropout = inputs
    q, k, v, bias, *where = tensors
    ctx.save_for_backward(q, k, v, bias, *output, *where)


def _differentiate(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, dbias = _opaque_backward(dout, *ctx.saved_tensors, ctx.causal, ctx.window, ctx.dropout)
    return dq, dk, dv, None if ctx.saved_tensors[3] is None else dbias, *(None,) * 7


_opaque_attend.register_autograd(_differentiate, setup_context=_save)
