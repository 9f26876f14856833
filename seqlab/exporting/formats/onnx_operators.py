"""Recurrences as ONNX has them: one operator for all steps of a direction (https://onnx.ai/onnx/operators).

While a graph is made for ONNX, `recur` puts an operator of this name into it, which the exporter then translates. It
computes nothing here. Gates lie in ONNX's order, and the biases of inputs and states one after the other:

    LSTM    i, o, f, c
    GRU     z, r, h      reset after the product (linear_before_reset)
    RNN     one, through tanh
    linear  an LSTM whose activations are all the identity. With weights that choose, i = o = 1, f = a and c = b, it
            computes h_t = a_t h_{t-1} + b_t, to the bit: minGRU and minLSTM, for which ONNX has no operator
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from seqlab.errors import InputError
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinimalCell


class Operator(NamedTuple):
    """The operator of a cell: inputs [N, L, I], weights [G H, I] and [G H, H], and biases [2 G H]."""

    kind: Literal["LSTM", "GRU", "RNN", "linear"]
    x_NLI: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor


def operator_of(cell: Any, x_NLD: Tensor) -> Operator:
    """Return the operator that computes a cell, on these inputs.

    Raises:
        InputError: ONNX has none. A cell of the user's own names one by a method `operator(x_NLD)`.
    """
    if isinstance(cell, LSTMCell):
        return Operator("LSTM", x_NLD, *in_order([0, 3, 1, 2], cell.weights()))
    if isinstance(cell, GRUCell):
        return Operator("GRU", x_NLD, *in_order([1, 0, 2], cell.weights()))
    if isinstance(cell, TanhCell):
        return Operator("RNN", x_NLD, *in_order([0], cell.weights()))
    if isinstance(cell, MinimalCell):
        ab_NLH: Tensor = cell.project(x_NLD.flatten(0, 1)).unflatten(0, x_NLD.shape[:2])
        return Operator("linear", ab_NLH, *linear_weights(cell.hidden_size, ab_NLH))
    if hasattr(cell, "operator"):
        operator: Operator = cell.operator(x_NLD)
        return operator
    raise InputError(
        f"ONNX has no operator that computes {type(cell).__name__}: it knows LSTM, GRU and tanh (and minGRU and "
        "minLSTM by its LSTM); for other cells set format=torchscript, pt2 or aoti"
    )


def in_order(gates: Sequence[int], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight_ih, weight_hh and the joined biases with their gates in another order."""
    height = weights[1].shape[1]
    parts = [torch.cat([tensor[gate * height : (gate + 1) * height] for gate in gates]) for tensor in weights]
    return parts[0], parts[1], torch.cat(parts[2:])


def linear_weights(hidden: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights of the LSTM that computes a linear recurrence from rows [a, b]."""
    eye, zeros, ones = (
        make(hidden, dtype=like.dtype, device=like.device) for make in (torch.eye, torch.zeros, torch.ones)
    )
    of_inputs = torch.cat([torch.zeros_like(eye), torch.zeros_like(eye), eye, torch.zeros_like(eye)])
    of_b = torch.cat([torch.zeros_like(eye), torch.zeros_like(eye), torch.zeros_like(eye), eye])
    bias = torch.cat([ones, ones, *[zeros] * 6])
    return torch.cat([of_inputs, of_b], 1), torch.zeros_like(of_b), bias


def recur(
    cell: Any, x_NLD: Tensor, lengths: Tensor | None, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Put the operator of a cell into the graph; arguments and results are those of `unroll_block` (loops.py)."""
    operator = operator_of(cell, x_NLD)
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
