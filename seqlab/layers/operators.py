"""Recurrences as ONNX has them: one operator for all steps of a direction (https://onnx.ai/onnx/operators).

While a graph is exported to ONNX, `recur` puts an operator of this name into it, which the exporter then translates. It
computes nothing here. Gates lie in ONNX's order, and the biases of inputs and states one after the other:

    LSTM    i, o, f, c
    GRU     z, r, h      reset after the product (linear_before_reset)
    RNN     one, through tanh
    linear  an LSTM whose activations are all the identity. With weights that choose, i = o = 1, f = a and c = b, it
            computes h_t = a_t h_{t-1} + b_t, to the bit: what ONNX has no operator for (scan.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Operator(NamedTuple):
    """What a cell is in ONNX: inputs [N, L, I], weights [G H, I] and [G H, H], and biases [2 G H]."""

    kind: Literal["LSTM", "GRU", "RNN", "linear"]
    x_NLI: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor


def in_order(gates: Sequence[int], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """weight_ih, weight_hh, bias_ih and bias_hh [G H, ...] with their gates in another order, the biases joined."""
    height = weights[1].shape[1]
    parts = [torch.cat([tensor[gate * height : (gate + 1) * height] for gate in gates]) for tensor in weights]
    return parts[0], parts[1], torch.cat(parts[2:])


def linear_weights(hidden: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the LSTM that computes a linear recurrence from rows [a, b]."""
    eye, zeros, ones = (
        make(hidden, dtype=like.dtype, device=like.device) for make in (torch.eye, torch.zeros, torch.ones)
    )
    of_inputs = torch.cat([torch.zeros_like(eye), torch.zeros_like(eye), eye, torch.zeros_like(eye)])
    of_b = torch.cat([torch.zeros_like(eye), torch.zeros_like(eye), torch.zeros_like(eye), eye])
    bias = torch.cat([ones, ones, *[zeros] * 6])
    return torch.cat([of_inputs, of_b], 1), torch.zeros_like(of_b), bias


def recur(
    operator: Operator, lengths: Tensor | None, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [N, L, H] and the state after each sequence's last step, of a right-padded block; see `unroll_block`."""
    y_NLH, h_NH, c_NH = torch.ops.seqlab.recurrence(*operator, lengths, state[0], state[-1], reverse)
    after = {"LSTM": [h_NH, c_NH], "linear": [c_NH]}.get(operator.kind, [h_NH])
    if lengths is not None:  # of a sequence without steps onnxruntime returns zeros
        some_N1 = (lengths > 0).unsqueeze(1)
        after = [torch.where(some_N1, new, old) for new, old in zip(after, state, strict=True)]
    return y_NLH, after


torch.library.define(
    "seqlab::recurrence",
    "(str kind, Tensor x, Tensor weight_ih, Tensor weight_hh, Tensor bias, Tensor? lengths, Tensor h, Tensor c, "
    "bool reverse) -> (Tensor, Tensor, Tensor)",
)


def _shapes(
    kind: str, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, lengths: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    h, c, _ = rest
    return x.new_empty(x.shape[0], x.shape[1], weight_hh.shape[1]), torch.empty_like(h), torch.empty_like(c)


torch.library.register_fake("seqlab::recurrence", _shapes)
