"""Loops over a right-padded block [N, L, ...], in the form that exported graphs keep.

`torch.export` unrolls a Python loop over a length, and so fixes the length. It keeps torch's operator `scan` as a loop,
which is given one step. Every step computes all N rows; a row whose sequence has ended keeps its state. That is work on
padding, and nothing but an exported graph does it. In ONNX the operator is called Scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqlab.ragged import inside_of

# A step takes and gives a state, tensors [N, ...]; it reads a row of each input, and writes a row of the output.
Step = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], Tensor]]


def scan(step: Step, state: list[Tensor], inputs: list[Tensor], reverse: bool = False) -> tuple[list[Tensor], Tensor]:
    """Return the last state, and the outputs of all steps [L, N, ...], in the order of the inputs [L, N, ...].

    With `reverse` the last input is read first.
    """
    from torch._higher_order_ops.scan import scan  # here: it brings the compiler along

    # A graph's loop may not be handed one tensor twice.
    return scan(step, [tensor.clone() for tensor in state], inputs, reverse=reverse)


def unroll_block(
    cell: Any, x_NLD: Tensor, lengths: Tensor | None, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return outputs [N, L, H], of which those beyond a length mean nothing, and the state after each last step.

    Args:
        cell: see seqlab/layers/recurrent/cells.py.
        x_NLD: sequences, each from the beginning of its row.
        lengths: [N] int64, on the values' device; None: all are L.
        state: tensors [N, ...] before the first step.
        reverse: read every sequence from its end.
    """
    count, length = x_NLD.shape[:2]
    if hasattr(cell, "project"):
        x_NLD = cell.project(x_NLD.flatten(0, 1)).unflatten(0, [count, length])
    inputs = [x_NLD.transpose(0, 1)]
    if lengths is not None:
        inputs.append(inside_of(lengths, length).t())

    def step(before: list[Tensor], read: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        output_NH, after = cell(read[0], before)
        if len(read) > 1:
            running_N = read[1]
            after = [
                torch.where(running_N.view(-1, *[1] * (new.dim() - 1)), new, old)
                for new, old in zip(after, before, strict=True)
            ]
        # Nor may it give one twice; and it is to know that its outputs are as many as its inputs.
        return [tensor.clone() for tensor in after], output_NH.view(count, -1).clone()

    last, y_LNH = scan(step, state, inputs, reverse)
    return y_LNH.transpose(0, 1), last
