"""LSTM, GRU and tanh over a whole time-major batch as one autograd function each: the fast path of the cells.

One product for all inputs, then a loop that keeps only what must wait for the step before (`compiled.py`, or
`loop.py` where there is no machine code), and on the way back one product for the weights' gradient over all rows.
On CUDA the loop is cuDNN's own, which reads this very order: a time-major batch is what a `PackedSequence` wraps.

The equations are those of cells.py, and a test holds both equal. All functions can be differentiated
once; `backend("plain")` differentiates twice.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqlab.layers.linear import over_rows
from seqlab.layers.recurrent import compiled, loop
from seqlab.layers.recurrent.cudnn import has_cudnn
from seqlab.layers.recurrent.steps import final_rows


def loop_of(x: Tensor) -> ModuleType:
    """Return the module that computes the loop for tensors such as this one."""
    return compiled if compiled.can_run(x) else loop


def describe(device: torch.device) -> str:
    """Return the name of what computes the loops of LSTM, GRU and tanh."""
    x = torch.empty(1, device=device)
    if has_cudnn(x):
        return "cuDNN on packed rows"
    return "machine code of our own" if loop_of(x) is compiled else "a loop of torch's operators"


def unroll_lstm(
    x_TG: Tensor, weight_hh: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [T, H] and the state [B, H] after each sequence's last step; `x_TG` [T, 4 H] is `project`ed, and lost."""
    h_BH, c_BH = _fitting(state, weight_hh, lengths)
    y_TH, h_BH, c_BH = _LSTM.apply(x_TG.to(weight_hh.dtype), weight_hh, h_BH, c_BH, lengths, reverse)
    return y_TH, [h_BH, c_BH]


def unroll_gru(
    x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [T, H] and the state [B, H] after each sequence's last step; `x_TG` [T, 3 H] is `project`ed."""
    (h_BH,) = _fitting(state, weight_hh, lengths)
    y_TH, h_BH = _GRU.apply(x_TG.to(weight_hh.dtype), weight_hh, bias_hh, h_BH, lengths, reverse)
    return y_TH, [h_BH]


def unroll_tanh(
    x_TH: Tensor, weight_hh: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [T, H] and the state [B, H] after each sequence's last step; `x_TH` [T, H] is `project`ed."""
    (h_BH,) = _fitting(state, weight_hh, lengths)
    y_TH, h_BH = _Tanh.apply(x_TH.to(weight_hh.dtype), weight_hh, h_BH, lengths, reverse)
    return y_TH, [h_BH]


def _fitting(state: list[Tensor], weight_hh: Tensor, lengths: Tensor) -> list[Tensor]:
    """The state in the weights' dtype.

    Raises:
        ValueError: its tensors are not [B, H].
    """
    expected = (lengths.shape[0], weight_hh.shape[1])
    for tensor in state:
        if tensor.shape != expected:
            raise ValueError(f"a state of {list(expected)} is expected, got {list(tensor.shape)}")
    return [tensor.to(weight_hh.dtype) for tensor in state]


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TG: Tensor, weight_hh: Tensor, h_BH: Tensor, c_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates_TG = x_TG.detach()  # the loop writes over it: nobody else holds what `project` made, and memory is slow
        y_TH, c_TH = loop_of(x_TG).lstm(gates_TG, weight_hh, h_BH, c_BH, lengths, reverse)
        ctx.save_for_backward(weight_hh, h_BH, c_BH, y_TH, c_TH, gates_TG, lengths)
        ctx.reverse = reverse
        return y_TH, final_rows(y_TH, h_BH, lengths, reverse), final_rows(c_TH, c_BH, lengths, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor, dh_BH: Tensor, dc_BH: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h_BH, c_BH, y_TH, c_TH, gates_TG, lengths = ctx.saved_tensors
        h_before_TH, dx_TG, dh_BH, dc_BH = loop_of(y_TH).lstm_backward(
            weight_hh, h_BH, c_BH, y_TH, c_TH, gates_TG, dy_TH, dh_BH, dc_BH, lengths, ctx.reverse
        )
        dw_GH = over_rows(dx_TG, h_before_TH) if ctx.needs_input_grad[1] else None
        return dx_TG, dw_GH, dh_BH, dc_BH, None, None


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        y_TH, gates_TG = loop_of(x_TG).gru(x_TG, weight_hh, bias_hh, h_BH, lengths, reverse)
        ctx.save_for_backward(weight_hh, h_BH, y_TH, gates_TG, lengths)
        ctx.reverse = reverse
        return y_TH, final_rows(y_TH, h_BH, lengths, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor, dh_BH: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h_BH, y_TH, gates_TG, lengths = ctx.saved_tensors
        h_before_TH, dx_TG, dproduct_TG, dh_first_BH = loop_of(y_TH).gru_backward(
            weight_hh, h_BH, y_TH, gates_TG, dy_TH, dh_BH, lengths, ctx.reverse
        )
        dw_GH = over_rows(dproduct_TG, h_before_TH) if ctx.needs_input_grad[1] else None
        return dx_TG, dw_GH, dproduct_TG.sum(0), dh_first_BH, None, None


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TH: Tensor, weight_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        y_TH = loop_of(x_TH).tanh(x_TH, weight_hh, h_BH, lengths, reverse)
        ctx.save_for_backward(weight_hh, h_BH, y_TH, lengths)
        ctx.reverse = reverse
        return y_TH, final_rows(y_TH, h_BH, lengths, reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor, dh_BH: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h_BH, y_TH, lengths = ctx.saved_tensors
        h_before_TH, dx_TH, dh_first_BH = loop_of(y_TH).tanh_backward(
            weight_hh, h_BH, y_TH, dy_TH, dh_BH, lengths, ctx.reverse
        )
        dw_HH = over_rows(dx_TH, h_before_TH) if ctx.needs_input_grad[1] else None
        return dx_TH, dw_HH, dh_first_BH, None, None
