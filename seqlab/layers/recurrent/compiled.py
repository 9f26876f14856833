"""The loops of LSTM, GRU, tanh and of linear recurrences in machine code: native/recurrence.cpp.

The functions are those of `loop.py`, argument for argument. As operators of torch they are seen by its profiler and
its counters.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.library import custom_op

from seqlab.layers.native import compiler
from seqlab.layers.recurrent.steps import end_rows
from seqlab.ragged import offsets_of, widths_of


def can_run(x: Tensor) -> bool:
    """Whether there is machine code for tensors such as this one."""
    return compiler.can_run("recurrence", x.device, x.dtype)


class _Batch(ctypes.Structure):
    """`Batch` of recurrence.cpp."""

    _fields_ = (
        ("starts", ctypes.c_void_p),
        ("widths", ctypes.c_void_p),
        ("steps", ctypes.c_long),
        ("hidden", ctypes.c_long),
        ("reverse", ctypes.c_bool),
    )


def _run(name: str, lengths: Tensor, rows: Tensor, state: Tensor, reverse: bool, *tensors: Tensor) -> None:
    """Calls the function of that name on contiguous tensors; the last ones are written to.

    Args:
        rows, state: one of those [T, ...], and one of those [B, H].

    Raises:
        ValueError: they do not fit the lengths, which C++ would not notice.
    """
    hidden = state.shape[1]
    if lengths.dtype != torch.int64 or rows.shape[0] != int(lengths.sum()) or state.shape[0] != lengths.shape[0]:
        raise ValueError(
            f"{rows.shape[0]} rows and a state of {state.shape[0]} do not fit {lengths.shape[0]} sequences of "
            f"{int(lengths.sum())} tokens ({lengths.dtype})"
        )
    widths = widths_of(lengths)
    starts = offsets_of(widths)
    batch = _Batch(starts.data_ptr(), widths.data_ptr(), widths.shape[0], hidden, reverse)
    compiler.call("recurrence", name, tensors[0].dtype, batch, *tensors)


def _to_state(dx_TG: Tensor, weight_hh: Tensor, lengths: Tensor, reverse: bool) -> tuple[Tensor, int]:
    """The gradient that the rows read first send through the weights to the initial state, and their number."""
    first, last = end_rows(lengths)
    begins = last if reverse else first
    return dx_TG[begins] @ weight_hh, len(begins)


@custom_op("seqlab::lstm", mutates_args=("x_TG",))
def lstm(
    x_TG: Tensor, weight_hh: Tensor, h_BH: Tensor, c_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    assert x_TG.is_contiguous()  # it is written to
    weight_hh, h_BH, c_BH = weight_hh.contiguous(), h_BH.contiguous(), c_BH.contiguous()
    hidden = weight_hh.shape[1]
    y_TH, c_TH = x_TG.new_empty(x_TG.shape[0], hidden), x_TG.new_empty(x_TG.shape[0], hidden)
    _run("lstm", lengths, x_TG, h_BH, reverse, x_TG, weight_hh, h_BH, c_BH, y_TH, c_TH)
    return y_TH, c_TH


@custom_op("seqlab::lstm_backward", mutates_args=())
def lstm_backward(
    weight_hh: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    y_TH: Tensor,
    c_TH: Tensor,
    gates_TG: Tensor,
    dy_TH: Tensor,
    dh_BH: Tensor,
    dc_BH: Tensor,
    lengths: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight_hh, h_BH, c_BH, dy_TH = weight_hh.contiguous(), h_BH.contiguous(), c_BH.contiguous(), dy_TH.contiguous()
    dh_BH, dc_BH = (
        dh_BH.clone(memory_format=torch.contiguous_format),
        dc_BH.clone(memory_format=torch.contiguous_format),
    )
    before_TH, dx_TG, carry_BH = torch.empty_like(y_TH), torch.empty_like(gates_TG), torch.empty_like(dc_BH)
    tensors = (weight_hh, h_BH, c_BH, y_TH, c_TH, gates_TG, dy_TH, dh_BH, dc_BH, dx_TG, before_TH, carry_BH)
    _run("lstm_backward", lengths, y_TH, h_BH, reverse, *tensors)
    through_BH, count = _to_state(dx_TG, weight_hh, lengths, reverse)
    dh_BH[:count], dc_BH[:count] = through_BH, carry_BH[:count]
    return before_TH, dx_TG, dh_BH, dc_BH


@custom_op("seqlab::gru", mutates_args=())
def gru(
    x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    x_TG, weight_hh, bias_hh, h_BH = x_TG.contiguous(), weight_hh.contiguous(), bias_hh.contiguous(), h_BH.contiguous()
    hidden = weight_hh.shape[1]
    y_TH, gates_TG = x_TG.new_empty(x_TG.shape[0], hidden), x_TG.new_empty(x_TG.shape[0], 4 * hidden)
    _run("gru", lengths, x_TG, h_BH, reverse, x_TG, weight_hh, bias_hh, h_BH, y_TH, gates_TG)
    return y_TH, gates_TG


@custom_op("seqlab::gru_backward", mutates_args=())
def gru_backward(
    weight_hh: Tensor,
    h_BH: Tensor,
    y_TH: Tensor,
    gates_TG: Tensor,
    dy_TH: Tensor,
    dh_BH: Tensor,
    lengths: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight_hh, h_BH, dy_TH = weight_hh.contiguous(), h_BH.contiguous(), dy_TH.contiguous()
    dh_BH = dh_BH.clone(memory_format=torch.contiguous_format)
    dx_TG, carry_BH = y_TH.new_empty(y_TH.shape[0], 3 * y_TH.shape[1]), torch.empty_like(dh_BH)
    dm_TG, before_TH = torch.empty_like(dx_TG), torch.empty_like(y_TH)
    tensors = (weight_hh, h_BH, y_TH, gates_TG, dy_TH, dh_BH, dx_TG, dm_TG, before_TH, carry_BH)
    _run("gru_backward", lengths, y_TH, h_BH, reverse, *tensors)
    through_BH, count = _to_state(dm_TG, weight_hh, lengths, reverse)
    dh_BH[:count] = carry_BH[:count] + through_BH
    return before_TH, dx_TG, dm_TG, dh_BH


@custom_op("seqlab::tanh", mutates_args=())
def tanh(x_TH: Tensor, weight_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    x_TH, weight_hh, h_BH = x_TH.contiguous(), weight_hh.contiguous(), h_BH.contiguous()
    y_TH = torch.empty_like(x_TH)
    _run("tanh", lengths, x_TH, h_BH, reverse, x_TH, weight_hh, h_BH, y_TH)
    return y_TH


@custom_op("seqlab::tanh_backward", mutates_args=())
def tanh_backward(
    weight_hh: Tensor, h_BH: Tensor, y_TH: Tensor, dy_TH: Tensor, dh_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    weight_hh, h_BH, dy_TH = weight_hh.contiguous(), h_BH.contiguous(), dy_TH.contiguous()
    dh_BH = dh_BH.clone(memory_format=torch.contiguous_format)
    dx_TH, before_TH = torch.empty_like(y_TH), torch.empty_like(y_TH)
    tensors = (weight_hh, h_BH, y_TH, dy_TH, dh_BH, dx_TH, before_TH)
    _run("tanh_backward", lengths, y_TH, h_BH, reverse, *tensors)
    through_BH, count = _to_state(dx_TH, weight_hh, lengths, reverse)
    dh_BH[:count] = through_BH
    return before_TH, dx_TH, dh_BH


@custom_op("seqlab::scan", mutates_args=())
def scan(a_TH: Tensor, b_TH: Tensor, lengths: Tensor, initial_BH: Tensor, reverse: bool) -> Tensor:
    a_TH, b_TH, initial_BH = a_TH.contiguous(), b_TH.contiguous(), initial_BH.contiguous()
    h_TH = torch.empty_like(b_TH)
    _run("scan", lengths, b_TH, initial_BH, reverse, a_TH, b_TH, initial_BH, h_TH)
    return h_TH
