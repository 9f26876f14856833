"""Keys and values of the tokens read so far, in rows that a step adds to without moving what is there.

A cache is a list [keys, values, keys, values, ..., taken, starts, lengths]: of every block the keys and values
[R, G, K], then, on the CPU, three tensors that all blocks share:

    starts_B, lengths_B    the rows of sequence b are starts[b] : starts[b] + lengths[b]; behind them may be room
    taken_R                whether a row has been written to; every cache over the same rows holds this very tensor

    rows       a0 a1 .  .  b0 b1 b2 .  .  .      starts 0 4    lengths 2 3    a step writes rows 2 and 7

To select sequences, also twice or in another order, is to select starts and lengths. To append is to write the rows
behind each sequence, if nobody has: a cache that is continued a second time, and two copies of one sequence, find them
taken. Then, and when the room is used up, all rows move to a new place, with room for half as many again. One thread
at a time may continue caches over the same rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqlab.ragged import offsets_of, rows_of


def tight(lengths: Tensor) -> list[Tensor]:
    """taken, starts and lengths of sequences that follow one another without room, as a first pass leaves them."""
    return [torch.ones(int(lengths.sum()), dtype=torch.bool), offsets_of(lengths)[:-1], lengths]


def make_room(cache: list[Tensor], lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """The cache with `lengths` [B] more tokens of each sequence, and the rows [T] int64 to write these to.

    While gradients are recorded rows always move, and get no room: what an earlier pass has read must stay as it was.
    """
    taken, starts, before = cache[-3], cache[-2], cache[-1]
    rows = rows_of(starts + before, lengths)
    recording = torch.is_grad_enabled()
    if not recording and _free(taken, rows):
        taken[rows] = True
        return cache[:-1] + [before + lengths], rows  # noqa: RUF005
    after = before + lengths
    room = torch.zeros_like(after) if recording else torch.div(after, 2, rounding_mode="floor") + 16
    ends = (after + room).cumsum(0)
    moved = ends - after - room
    size = int((after + room).sum())
    source, target = rows_of(starts, before), rows_of(moved, before)
    cache_: list[Tensor] = []
    for tensor in cache[:-3]:
        old = tensor.index_select(0, source.to(tensor.device))
        new = tensor.new_zeros([size, tensor.shape[1], tensor.shape[2]])
        cache_.append(new.index_copy(0, target.to(tensor.device), old))
    rows = rows_of(moved + before, lengths)
    taken = torch.zeros(size, dtype=torch.bool)
    taken[target] = True
    taken[rows] = True
    return cache_ + [taken, moved, after], rows  # noqa: RUF005  TorchScript knows no stars


def _free(taken: Tensor, rows: Tensor) -> bool:
    """Whether the rows exist, have not been written to, and are asked for once each."""
    if rows.shape[0] == 0:
        return True
    if int(rows.max()) >= taken.shape[0] or bool(taken[rows].any()):
        return False
    return torch.unique(rows).shape[0] == rows.shape[0]
