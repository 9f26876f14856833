"""A researcher's own file, outside the package: a cell, kept to the contract of seqlab/layers/recurrent/cells.py."""

import torch
from torch import Tensor, nn


class MyCell(nn.Module):
    """A leaky recurrence with a trained rate per feature, and a step counter as a second, unused state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = nn.Linear(input_size + hidden_size, hidden_size)
        self.rate = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch: int) -> list[Tensor]:
        return [self.rate.new_zeros(batch, self.hidden_size), self.rate.new_zeros(batch)]

    def forward(self, x_BD: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h_BH, count_B = state
        rate_H = torch.sigmoid(self.rate)
        h_BH = (1 - rate_H) * h_BH + rate_H * torch.tanh(self.linear(torch.cat([x_BD, h_BH], 1)))
        return torch.relu(h_BH), [h_BH, count_B + 1]
