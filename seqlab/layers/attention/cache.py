"""Keys and values of the tokens read so far, in rows that stay where they are.

A cache is a list [keys, values, keys, values, ..., used, rows, lengths]: of every block the keys and values [R, G, K],
then, on the CPU, three tensors that all blocks share:

    rows_T, lengths_B    the row of every token, sequence after sequence, and how many tokens each sequence has
    used                 [1]: how many rows have been written to; every cache over the same rows holds this very tensor

    row       0  1  2  3  4  5  6  .  .        rows 0 1 4 | 0 1 5 | 2 3 6    lengths 3 3 3    used 7
    token     a0 a1 b0 b1 a2 a2'b2 .  .        two continuations of a, which share its beginning, and b

To select sequences, also twice or in another order, is to select their numbers of rows. To append is to write the next
rows that nobody has written to: a cache can be continued any number of times. When there are too few, the rows that
this cache still needs move to a new place, with room for half as many again. One thread at a time may continue caches
over the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqlab.ragged import rows_of


def tight(lengths: Tensor) -> list[Tensor]:
    """Return used, rows and lengths of sequences that follow one another without room, as a first pass leaves them."""
    total = lengths.sum()
    return [total.view(1), torch.arange(int(total)), lengths]


def untouched(source: list[Tensor], lengths: Tensor) -> list[Tensor]:
    """Return a cache of sequences [B] without tokens, of the same heads and widths as another."""
    return [rows[:0] for rows in source[:-3]] + tight(torch.zeros_like(lengths))


def make_room(cache: list[Tensor], lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """The cache with `lengths` [B] more tokens of each sequence, and the rows [T] int64 to write these to.

    While gradients are recorded rows always move, and get no room: what an earlier pass has read must stay as it was.
    """
    tensors, used, rows, before = cache[:-3], cache[-3], cache[-2], cache[-1]
    count, recording = int(lengths.sum()), torch.is_grad_enabled()
    if recording or int(used) + count > tensors[0].shape[0]:
        tensors, rows = packed(tensors, rows)
        used = torch.tensor([tensors[0].shape[0]])
        room = count if recording else count + (tensors[0].shape[0] + count) // 2 + 16
        for i, tensor in enumerate(tensors):
            tensors[i] = torch.cat([tensor, tensor.new_zeros([room, tensor.shape[1], tensor.shape[2]])])
    new = torch.arange(count) + used
    used += count
    after = before + lengths
    starts = after.cumsum(0) - after
    both = torch.empty(rows.shape[0] + count, dtype=torch.int64)
    both[rows_of(starts, before)] = rows
    both[rows_of(starts + before, lengths)] = new
    return tensors + [used, both, after], new  # noqa: RUF005  TorchScript knows no stars


def packed(tensors: list[Tensor], rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """The rows that are needed, once each, in new tensors; and where they are now."""
    needed = torch.zeros(tensors[0].shape[0], dtype=torch.bool)
    needed[rows] = True
    kept = needed.nonzero().flatten()
    return [tensor.index_select(0, kept.to(tensor.device)) for tensor in tensors], (needed.cumsum(0) - 1)[rows]


def join(caches: Sequence[list[Tensor]]) -> list[Tensor]:
    """The sequences of several caches in one. Nothing moves where all that have any token lie in the same rows."""
    filled = [cache for cache in caches if len(cache[-2])] or [*caches[:1]]
    lengths = torch.cat([cache[-1] for cache in caches])
    shared = filled[0][:-2]
    if all(a is b for cache in filled for a, b in zip(cache[:-2], shared, strict=True)):
        return [*shared, torch.cat([cache[-2] for cache in filled]), lengths]
    parts = [packed(cache[:-3], cache[-2]) for cache in filled]
    tensors = [torch.cat(several) for several in zip(*(tensors for tensors, _ in parts), strict=True)]
    sizes = torch.tensor([len(tensors[0]) for tensors, _ in parts])
    begin = sizes.cumsum(0) - sizes
    rows = torch.cat([rows + first for (_, rows), first in zip(parts, begin, strict=True)])
    return [*tensors, sizes.sum().view(1), rows, lengths]
