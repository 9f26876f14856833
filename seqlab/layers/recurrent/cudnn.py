"""The recurrences of cuDNN on packed rows: the fast path of LSTM, GRU and tanh on CUDA.

A time-major batch is what torch's `PackedSequence` wraps, so nothing is copied on the way.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from seqlab.layers.recurrent.steps import permute, reversed_rows
from seqlab.ragged import widths_of


def has_cudnn(x: Tensor) -> bool:
    """Return whether cuDNN's recurrences run on tensors such as this one."""
    return x.is_cuda and torch.backends.cudnn.is_acceptable(x)


def unroll_cudnn(
    kind: Literal["lstm", "gru", "rnn_tanh"],
    x_TD: Tensor,
    weights: list[Tensor],
    lengths: Tensor,
    state: list[Tensor],
    reverse: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Return outputs [T, H] and the state [B, H] after each sequence's last step, by torch's packed recurrence.

    It reads time-major rows and the widths of the steps. Its one direction is forward, so `reverse` turns the rows.
    """
    widths = widths_of(lengths)
    if len(widths) == 0:
        return x_TD.new_empty(0, weights[1].shape[1]), state
    running = int(widths[0])
    turned = reversed_rows(lengths).to(x_TD.device) if reverse else None
    if turned is not None:
        x_TD = permute(x_TD, turned, turned)
    initial = [tensor[:running].unsqueeze(0) for tensor in state]
    with warnings.catch_warnings():
        # Each weight is a parameter of its own, as in any cell; cuDNN copies them together, which costs microseconds.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk of memory")
        y_TH, *final = getattr(torch, kind)(
            x_TD, widths, initial if kind == "lstm" else initial[0], weights, True, 1, 0.0, True, False
        )
    after = [torch.cat([s[0].to(whole.dtype), whole[running:]]) for s, whole in zip(final, state, strict=True)]
    return y_TH if turned is None else permute(y_TH, turned, turned), after
