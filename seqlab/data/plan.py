"""Which examples form which batch: a pure function of lengths, seed and epoch. Numbers in, numbers out, no tensor.

A batch holds at most `tokens` real tokens. Examples are shuffled and taken in pools of about `pool` batches; inside a
pool a batch takes the longest example that is left and then, again and again, the longest that still fits, until it
is full. So neighbours in length meet, which makes few and large rectangles, and only among a random part of the epoch.
What cannot fill a batch at the end of a pool waits for the next one. At the end the batches are shuffled.

    tokens = 10, one pool of lengths 2 3 3 4 7 8   ->   [8 2]  [7 3]  [4 3]
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.integer]

_FULL = 0.98  # a batch this full closes: the last per cent or two would cost it the short examples that fill others


@dataclass(frozen=True, eq=False)
class Plan:
    """Batch i is the examples order[offsets[i] : offsets[i + 1]]; every example is in exactly one batch."""

    order: Int64s
    offsets: Int64s

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.offsets) - 1

    def __getitem__(self, batch: int) -> Int64s:
        """The examples of a batch, 0 <= batch < len(self)."""
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        return self.order[self.offsets[batch] : self.offsets[batch + 1]]

    def first(self, batches: int) -> Plan:
        """The plan of the first few batches only."""
        offsets = self.offsets[: batches + 1]
        return Plan(self.order[: offsets[-1]], offsets)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of both arrays."""
        digest = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        digest.update(self.order.astype("<i8").tobytes())
        return digest.hexdigest()


def make_plan(lengths: Lengths, tokens: int, pool: int, seed: int | None, epoch: int) -> Plan:
    """Plan an epoch.

    Args:
        lengths: [E] tokens of each example; 0 is legal and counts as nothing.
        tokens: the most real tokens a batch may hold.
        pool: in how many batches' worth of examples similar lengths are looked for; 1 makes purely random batches.
        seed: None makes one pool of all examples and does not shuffle: the order of evaluation, longest first.
        epoch: every epoch has its own order.

    Raises:
        ValueError: an example is longer than `tokens`, a length is negative, or `pool` is below 1.
    """
    lengths = np.asarray(lengths, np.int64)
    if pool < 1:
        raise ValueError(f"pool must be at least 1, got {pool}")
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > tokens:
        raise ValueError(f"lengths must be between 0 and tokens={tokens}, got {lengths.min()} to {lengths.max()}")
    random = None if seed is None else np.random.default_rng([seed, epoch])
    order = np.arange(len(lengths)) if random is None else random.permutation(len(lengths))
    empty = order[lengths[order] == 0]
    if len(empty):
        order = order[lengths[order] > 0]

    total = int(lengths.sum())
    narrow = lengths.astype(np.min_scalar_type(tokens))  # NumPy sorts 16 bits several times faster than 64
    if random is None:
        batches = list(_matched(narrow, _cut(narrow, order, total), tokens))
    elif pool == 1:
        batches = list(_cut(narrow, order, tokens))
    else:
        batches = list(_matched(narrow, _cut(narrow, order, pool * tokens), tokens))
        batches = [batches[i] for i in random.permutation(len(batches))]

    if len(empty):  # they take no room: some for every batch, as none should consist of nothing
        shares = np.array_split(empty, max(len(batches), 1))
        batches = [np.concatenate(pair) for pair in zip(batches, shares, strict=True)] if batches else shares
    offsets = np.cumsum([0, *map(len, batches)])
    return Plan(np.concatenate([order[:0], *batches]), offsets)


def _cut(lengths: Lengths, order: Int64s, tokens: int) -> Iterator[Int64s]:
    """Consecutive parts of at most `tokens` tokens each."""
    running = np.cumsum(lengths[order], dtype=np.int64)
    start, used = 0, 0
    while start < len(order):
        end = int(np.searchsorted(running, used + tokens, side="right"))
        yield order[start:end]
        start, used = end, int(running[end - 1])


def _matched(lengths: Lengths, pools: Iterable[Int64s], tokens: int) -> Iterator[Int64s]:
    """Batches of best fit, pool by pool; the last batch of a pool joins the next pool, as it may not be full."""
    waiting: Int64s | None = None
    for pool in pools:
        *full, waiting = _best_fit(lengths, pool if waiting is None else np.concatenate([waiting, pool]), tokens)
        yield from full
    if waiting is not None:
        yield waiting


def _best_fit(lengths: Lengths, examples: Int64s, tokens: int) -> Iterator[Int64s]:
    """Each batch takes the longest that fits, as many as there are and fit, until it is full or nothing fits.

    Progress is certain: no example is longer than an empty batch has room.
    """
    examples = examples[np.argsort(lengths[examples], kind="stable")]
    distinct, first, number = np.unique(lengths[examples], return_index=True, return_counts=True)
    sizes, next_up, counts = distinct.tolist(), first.tolist(), number.tolist()
    while sizes:
        room, parts = tokens, []
        while room > (1 - _FULL) * tokens and (at := bisect_right(sizes, room) - 1) >= 0:
            take = min(counts[at], room // sizes[at])
            parts.append(examples[next_up[at] : next_up[at] + take])
            room -= take * sizes[at]
            next_up[at] += take
            counts[at] -= take
            if not counts[at]:
                del sizes[at], next_up[at], counts[at]
        yield np.concatenate(parts)
