"""Cells: one step of a recurrence each, written as in the textbook.

The contract. A cell is a module with

    initial_state(batch) -> list of tensors [batch, ...]
    forward(x_B, state) -> (output_B, state)

and, if it wants,

    project(values_T) -> values_T     runs once over all tokens before the loop; `forward` then gets its rows
    unroll(values_T, lengths, state, reverse) -> (outputs_T, state)     its own fast path over a whole batch
    flops() -> float     useful FLOPs per token, forward and backward; without it: 6 times its matrix parameters
    operator(x_NLD) -> Operator     the ONNX operator that computes it (seqlab/exporting/formats/onnx_operators.py,
                                    which has those of the cells here); without it: no export to ONNX

`unroll` receives the values as they come in, in time-major order (seqlab/ragged.py), the lengths longest first and the
state's rows in that order; with `reverse` it reads every sequence from its end. A recurrent stack makes its cells by
calling `cell(input_size, hidden_size)`; `hidden_size` is the width of the output. Any module that keeps to this, also
one in your own file, unrolls and trains: `model.cell._target_=my_module.MyCell`.

In eager mode a state may also be a tensor, tuple, dict, NamedTuple or dataclass, nested freely; scripting wants the
list (contract.py). torch.nn's own cells have no `initial_state` and return no pair: call one in yours.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.layers.linear import linear
from seqlab.layers.recurrent.cudnn import has_cudnn, unroll_cudnn
from seqlab.layers.recurrent.unroll import unroll_gru, unroll_lstm, unroll_tanh


class Cell(Protocol):
    """What a recurrent stack asks of a cell; `project`, `unroll`, `flops` and `operator` are optional."""

    def initial_state(self, batch: int) -> list[Tensor]: ...

    def __call__(self, x_B: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]: ...


class GatedCell(nn.Module):
    """Parameters in the layout of torch.nn (`weight_ih` [G * H, I], `weight_hh` [G * H, H], two biases [G * H])."""

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(gates * hidden_size))
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch: int) -> list[Tensor]:
        return [self.weight_hh.new_zeros(batch, self.hidden_size)]

    def weights(self) -> list[Tensor]:
        """Return the parameters in the order in which torch's own recurrences take them."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]


class TanhCell(GatedCell):
    """Elman's recurrence (1990): h = tanh(W x + U h + b)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1)

    def project(self, x_TD: Tensor) -> Tensor:
        return linear(x_TD, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, x_BH: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h_BH = torch.tanh((x_BH + F.linear(state[0], self.weight_hh)).to(state[0].dtype))  # narrower under autocast
        return h_BH, [h_BH]

    def unroll(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool) -> tuple[Tensor, list[Tensor]]:
        if has_cudnn(x_TD):
            return unroll_cudnn("rnn_tanh", x_TD, self.weights(), lengths, state, reverse)
        return unroll_tanh(self.project(x_TD), self.weight_hh, lengths, state, reverse)


class LSTMCell(GatedCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000); gates i, f, g, o."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4)

    def initial_state(self, batch: int) -> list[Tensor]:
        zeros_BH = self.weight_hh.new_zeros(batch, self.hidden_size)
        return [zeros_BH, zeros_BH]

    def project(self, x_TD: Tensor) -> Tensor:
        return linear(x_TD, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, x_BG: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h_BH, c_BH = state
        i, f, g, o = (x_BG + F.linear(h_BH, self.weight_hh)).chunk(4, 1)
        c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
        h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
        return h_BH, [h_BH, c_BH]

    def unroll(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool) -> tuple[Tensor, list[Tensor]]:
        if has_cudnn(x_TD):
            return unroll_cudnn("lstm", x_TD, self.weights(), lengths, state, reverse)
        return unroll_lstm(self.project(x_TD), self.weight_hh, lengths, state, reverse)


class GRUCell(GatedCell):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the product, as in torch.nn; gates r, z, n."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=3)

    def project(self, x_TD: Tensor) -> Tensor:
        return linear(x_TD, self.weight_ih, self.bias_ih)

    def forward(self, x_BG: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h_BH = state[0]
        x_r, x_z, x_n = x_BG.chunk(3, 1)
        h_r, h_z, h_n = F.linear(h_BH, self.weight_hh, self.bias_hh).chunk(3, 1)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        h_BH = (1 - z) * n + z * h_BH
        return h_BH, [h_BH]

    def unroll(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool) -> tuple[Tensor, list[Tensor]]:
        if has_cudnn(x_TD):
            return unroll_cudnn("gru", x_TD, self.weights(), lengths, state, reverse)
        return unroll_gru(self.project(x_TD), self.weight_hh, self.bias_hh, lengths, state, reverse)
