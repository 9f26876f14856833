"""Recurrent layers: any cell, unrolled at run time over a batch that narrows as sequences end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from seqlab.layers.backend import is_fast
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.recurrent.cells import Cell
from seqlab.layers.recurrent.contract import check_step, make_cell
from seqlab.layers.recurrent.steps import permute
from seqlab.ragged import positions_of, time_major_of, widths_of


class Recurrence(nn.Module):
    """One cell over one direction of a batch."""

    def __init__(self, cell: Cell, reverse: bool, hidden_size: int) -> None:
        super().__init__()
        self.cell: Any = cell  # any module that keeps to the contract in cells.py
        self.reverse = reverse
        self.hidden_size = hidden_size

    def forward(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Read time-major values [T, D], lengths longest first, state rows in that order; outputs and final state."""
        if is_fast() and hasattr(self.cell, "unroll"):
            return self.cell.unroll(x_TD, lengths, state, self.reverse)
        return self.plain(x_TD, lengths, state)

    def plain(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute the same by calling the cell once per step."""
        if hasattr(self.cell, "project"):
            x_TD = self.cell.project(x_TD)
        return self.loop(x_TD, lengths, state)

    def step(self, x_BD: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Read one token of every sequence."""
        if hasattr(self.cell, "project"):
            x_BD = self.cell.project(x_BD)
        output_BH, after = self.cell(x_BD, state)
        self.check(output_BH, state, after)
        return output_BH, after

    def check(self, output_BH: Tensor, before: list[Tensor], after: list[Tensor]) -> None:
        """Raise ValueError if a step of the cell did not keep to the contract; see `check_step`."""
        check_step(self.cell, self.hidden_size, output_BH, before, after)

    def flops(self) -> float:
        """Return useful FLOPs per token: what the cell says, or an estimate, as if every matrix were used once."""
        if hasattr(self.cell, "flops"):
            return self.cell.flops()
        return 6.0 * sum(parameter.numel() for parameter in self.cell.parameters() if parameter.dim() == 2)

    def loop(self, x_TD: Tensor, lengths: Tensor, initial: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Call the cell once per step, on the sequences that are running."""
        widths: list[int] = widths_of(lengths).tolist()
        if len(widths) == 0:  # no token: the last state is the initial state; one empty call tells the output's width
            return self.cell(x_TD, [tensor[:0] for tensor in initial])[0], initial
        x = x_TD.split(widths)
        outputs: list[Tensor] = []
        ended: list[list[Tensor]] = [[tensor[widths[0] :] for tensor in initial]]
        running = widths[-1] if self.reverse else widths[0]
        state = [tensor[:running] for tensor in initial]
        for i in range(len(widths)):
            s = len(widths) - 1 - i if self.reverse else i
            changed = i == 0 or widths[s] != running
            if widths[s] < running:
                ended.append([tensor[widths[s] :] for tensor in state])
                state = [tensor[: widths[s]] for tensor in state]
            elif widths[s] > running:
                begun: list[Tensor] = []
                for k in range(len(state)):
                    begun.append(torch.cat([state[k], initial[k][running : widths[s]]]))
                state = begun
            running = widths[s]
            output, after = self.cell(x[s], state)
            if changed:
                self.check(output, state, after)
            outputs.append(output)
            state = after
        if self.reverse:
            outputs.reverse()
        ended.append(state)
        ended.reverse()
        return torch.cat(outputs), [torch.cat([part[k] for part in ended]) for k in range(len(initial))]


class RecurrentStack(SequenceLayer):
    """Several recurrent layers, each in one direction or in both, with dropout and residual sums between them.

    Args:
        input_size: width D of what comes in.
        hidden_size: width H of each direction; the output has `hidden_size * (2 if bidirectional else 1)`.
        cell: makes one cell, called `cell(input_size, hidden_size)`; see cells.py for the contract.
        layers: how many layers.
        bidirectional: read every sequence from its end as well and join both outputs (Schuster & Paliwal 1997).
        dropout: share of the values between two layers that are zeroed while training (Zaremba et al. 2014).
        residual: add a layer's input to its output wherever both have the same width.
        variational: drop the same features at every step of a sequence, others in every sequence (Gal & Ghahramani
            2016, section 4.1, without their dropout of the recurrent products), and drop from the stack's input and
            output too. A call draws anew: a document read in windows gets other masks in each.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        cell: Callable[[int, int], Cell],
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        residual: bool = False,
        variational: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: at least 1 is needed")
        directions = 2 if bidirectional else 1
        self.output_size = hidden_size * directions
        self.residual = residual
        self.variational = variational
        self.dropout = nn.Dropout(dropout)
        stacked = nn.ModuleList()
        for i in range(layers):
            width = input_size if i == 0 else self.output_size
            pair = [
                Recurrence(make_cell(cell, width, hidden_size), reverse, hidden_size)
                for reverse in (False, True)[:directions]
            ]
            stacked.append(nn.ModuleList(pair))
        self.layers = cast("Sequence[Sequence[Recurrence]]", stacked)
        self.state_size = len(self.layers[0][0].cell.initial_state(0))

    def initial_state(self, batch: int) -> list[Tensor]:
        """Return the states of all cells, layer by layer, forward before reverse: tensors [B, ...]."""
        state: list[Tensor] = []
        for layer in self.layers:
            for recurrence in layer:
                state += recurrence.cell.initial_state(batch)
        return state

    def flops(self, lengths: Tensor) -> float:
        return sum(recurrence.flops() for layer in self.layers for recurrence in layer) * int(lengths.sum())

    def core(self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return outputs [T, H'] and the states of all cells; see `initial_state` for their order."""
        if state is None:
            state = self.initial_state(lengths.shape[0])
        else:
            self.check(state, lengths.shape[0])
        index, inverse, longest, widths = time_major_of(lengths)
        lengths = lengths[longest]
        index, inverse, longest = index.to(values.device), inverse.to(values.device), longest.to(values.device)
        state = [tensor.index_select(0, longest) for tensor in state]
        y, last = self.unroll(permute(values, index, inverse), lengths, state, widths)
        back = torch.argsort(longest)
        return permute(y, inverse, index), [tensor.index_select(0, back) for tensor in last]

    def unroll(self, y: Tensor, lengths: Tensor, state: list[Tensor], widths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run all layers on time-major rows, of which step s has `widths[s]`; see `Recurrence.forward`."""
        last: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x = self.drop(y, widths) if i > 0 or self.variational else y
            outputs: list[Tensor] = []
            for recurrence in layer:
                output, after = recurrence(x, lengths, state[len(last) : len(last) + self.state_size])
                outputs.append(output)
                last += after
            y = torch.cat(outputs, -1)
            if self.residual and y.shape == x.shape:
                y = y + x
        if self.variational:
            y = self.drop(y, widths)
        return y, last

    def step(self, x_BD: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Read the next token of every sequence, [B, D] to [B, H]; only for one direction."""
        after: list[Tensor] = []
        y = x_BD
        for i, layer in enumerate(self.layers):
            x = self.dropout(y) if i > 0 or self.variational else y
            for recurrence in layer:
                y, last = recurrence.step(x, state[len(after) : len(after) + self.state_size])
                after += last
            if self.residual and y.shape == x.shape:
                y = y + x
        return self.dropout(y) if self.variational else y, after

    def drop(self, x_TD: Tensor, widths: Tensor) -> Tensor:
        """Apply dropout to time-major rows, of which step s has `widths[s]`."""
        if not self.variational:
            return self.dropout(x_TD)
        if not self.training or x_TD.shape[0] == 0:
            return x_TD
        mask_BD = self.dropout(x_TD.new_ones([int(widths[0]), x_TD.shape[1]]))
        return x_TD * mask_BD.index_select(0, positions_of(widths).to(x_TD.device))

    def check(self, state: list[Tensor], batch: int) -> None:
        """Raise ValueError if a state that was handed in has not the tensors that the cells have."""
        expected = [[batch, *tensor.shape[1:]] for tensor in self.initial_state(0)]
        got = [list(tensor.shape) for tensor in state]
        if got != expected:
            raise ValueError(f"a state of {batch} sequences is expected, tensors of shapes {expected}; got {got}")
