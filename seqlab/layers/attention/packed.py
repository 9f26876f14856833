"""Attention on packed rows, for CUDA: one kernel call reads all sequences, told by running sums where each begins.

bfloat16 and float16 take `torch.nn.attention.varlen.varlen_attn` (FlashAttention-2, Dao 2023), float32 the
memory-efficient kernel (Rabe & Staats 2021). Signatures are looked at, not versions: `varlen_attn` gained windows and
grouped queries one by one. Both align the last query with the last key, as we do. Nothing here waits for the device:
lengths are on the host.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from seqlab.layers.attention.call import Call
from seqlab.ragged import offsets_of, rows_of

try:
    from torch.nn.attention import varlen
except ImportError:  # an older torch, or one built without it
    varlen = None  # type: ignore[assignment]

_efficient = torch.ops.aten._efficient_attention_forward
_efficient_backward = torch.ops.aten._efficient_attention_backward
_flash_backward = torch.ops.aten._flash_attention_backward
_FROM_THE_LAST = 2  # the memory-efficient kernel's custom_mask_type: causal, last query at last key


def varlen_fits(device: torch.device, head_width: int, window: bool, grouped: bool) -> bool:
    """Whether `varlen_attn` is there and takes this."""
    takes = inspect.signature(varlen.varlen_attn).parameters if varlen is not None else {}
    needed = {"return_aux", *(["window_size"] if window else []), *(["enable_gqa"] if grouped else [])}
    fits = head_width % 8 == 0 and head_width <= 256 and needed <= takes.keys()
    return fits and torch.cuda.get_device_capability(device) >= (8, 0)


def efficient_fits(head_width: int, window: bool) -> bool:
    """Whether the memory-efficient kernel takes this. Its windows exist, and are left alone: not tried on a device."""
    return head_width % 8 == 0 and not window


@lru_cache(maxsize=4)  # by the identity of the tensor: all layers are handed the same lengths, which nobody writes to
def _running_sum(lengths: Tensor, device: torch.device) -> Tensor:
    """[B + 1] int32, where each sequence begins."""
    return offsets_of(lengths).to(torch.int32).to(device, non_blocking=True)


def _idle(lengths: Tensor, key_lengths: Tensor, causal: bool) -> Tensor:
    """The rows of queries that read nothing, int64 on the CPU."""
    counts = (lengths - key_lengths).clamp(min=0) if causal else torch.where(key_lengths == 0, lengths, 0)
    return rows_of(lengths.cumsum(0) - lengths, counts)


class _Packed:
    """One call of attention: where its sequences begin."""

    def __init__(self, call: Call, device: torch.device) -> None:
        lengths, key_lengths = call.lengths, call.key_lengths
        self.sums = (_running_sum(lengths, device), _running_sum(key_lengths, device))
        self.longest = (int(lengths.max()), int(key_lengths.max()))
        idle = _idle(lengths, key_lengths, call.causal)
        self.idle = idle.to(device) if len(idle) else None

    def zeroed(self, x_THK: Tensor) -> Tensor:
        """Zeros where a query reads nothing, whatever a kernel wrote there."""
        return x_THK if self.idle is None else x_THK.index_fill(0, self.idle, 0)


def forward(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, bias_HR: Tensor | None, call: Call) -> tuple[Tensor, Tensor]:
    """The output [T, H, K], and sums of exponentials as logarithms: [T * H] ("varlen"), none ("efficient")."""
    if q_THK.shape[0] == 0 or int(call.key_lengths.sum()) == 0:
        sums = 0 if call.kernel == "efficient" else q_THK.shape[0] * q_THK.shape[1]
        return q_THK.new_zeros(q_THK.shape), q_THK.new_zeros(sums, dtype=torch.float32)
    packed = _Packed(call, q_THK.device)
    if call.kernel == "efficient":
        out = _efficiently(packed, q_THK, k_TGK, v_TGK, call.causal, sums=False)[0].squeeze(0)
        return packed.zeroed(out), q_THK.new_empty(0, dtype=torch.float32)
    takes = inspect.signature(varlen.varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": call.causal}
    if "window_size" in takes:
        options = {"window_size": _sides(call)}
    if q_THK.shape[1] != k_TGK.shape[1]:
        options["enable_gqa"] = True
    aux = varlen.AuxRequest(lse=True)
    out, log_sums = varlen.varlen_attn(q_THK, k_TGK, v_TGK, *packed.sums, *packed.longest, return_aux=aux, **options)
    return packed.zeroed(out), log_sums.flatten()


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
    if q_THK.shape[0] == 0 or int(call.key_lengths.sum()) == 0:
        return torch.zeros_like(q_THK), torch.zeros_like(k_TGK), torch.zeros_like(v_TGK), None
    packed = _Packed(call, q_THK.device)
    dout_THK = packed.zeroed(dout_THK.contiguous())
    if call.kernel == "efficient":
        dq, dk, dv = _efficiently_back(packed, dout_THK, q_THK, k_TGK, v_TGK, call.causal)
    else:
        left, right = _sides(call)
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q_THK.device), q_THK.new_empty(0)
        dq, dk, dv = _flash_backward(
            dout_THK, q_THK, k_TGK, v_TGK, out_THK, log_sums.view(q_THK.shape[1], -1), *packed.sums, *packed.longest,
            0.0, (left, right) == (-1, 0), *no_dropout, window_size_left=left, window_size_right=right,
        )  # fmt: skip
    return packed.zeroed(dq), dk, dv, None


def _sides(call: Call) -> tuple[int, int]:
    """How many keys before and after its own place a query reads; -1: all. FlashAttention does not count its own."""
    left = -1 if call.window is None else call.window - 1
    return left, 0 if call.causal else left


def _efficiently(packed: _Packed, q: Tensor, k: Tensor, v: Tensor, causal: bool, sums: bool) -> Any:
    """The memory-efficient kernel has no grouped queries: each key head is repeated for the heads that read it."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    mask = _FROM_THE_LAST if causal else 0
    return _efficient(q[None], k[None], v[None], None, *packed.sums, *packed.longest, 0.0, mask, sums)


def _efficiently_back(
    packed: _Packed, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The forward pass runs again: its sums have a shape that depends on the lengths, which no compiler may see."""
    out, log_sums, seed, offset, *longest = _efficiently(packed, q, k, v, causal, True)
    k_, v_ = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    mask = _FROM_THE_LAST if causal else 0
    dq, dk, dv, _ = _efficient_backward(
        dout[None], q[None], k_[None], v_[None], None, out, *packed.sums, *longest, log_sums, 0.0, seed, offset, mask,
        False,
    )  # fmt: skip
    dk, dv = (d.squeeze(0).unflatten(1, (k.shape[1], -1)).sum(2) for d in (dk, dv))
    return dq.squeeze(0), dk, dv
