"""Ragged batches: the rows of all sequences in one matrix, and a layout that says where each sequence lies.

THE SHAPE LEGEND, for the whole project. A name ends in the shape of what it holds: `tokens_T`, `hidden_TD`, `q_THK`.

    T  tokens in the batch, sequence after sequence      B  sequences in the batch
    D  model width          H  attention heads           K  width of a head
    V  vocabulary           C  classes                   S  steps = length of the longest sequence
    N  sequences of a run   L  length of each of them    G  gates of a cell

Five numbers of an example, used below: three sequences a = a0 a1 a2, b = b0, c = c0 c1, hence lengths = [3, 1, 2].

    flat order         a0 a1 a2 b0 c0 c1         offsets = [0, 3, 4, 6]      positions = [0, 1, 2, 0, 0, 1]
    time-major order   a0 c0 b0 a1 c1 a2         widths  = [3, 2, 1]         (longest sequence first in every step)

`Layout` and `Ragged` are what people handle. The functions at the end do the same arithmetic on a plain tensor of
lengths; layers call them inside code that `torch.jit.script` takes. Lengths are int64 and stay on the CPU, so that
planning a loop never waits for an accelerator. Zero-length sequences are legal, and so is a batch of none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # in a Ragged of targets: not predicted, its row adds nothing


class Run(NamedTuple):
    """Neighbouring sequences of equal length: rows start : start + sequences * length are [N, L, ...]."""

    start: int
    sequences: int
    length: int


class TimeMajor(NamedTuple):
    """All first tokens, all second tokens, ...; in every step the longest sequence comes first.

    index_T    row in flat order of every row in time-major order
    inverse_T  row in time-major order of every row in flat order
    longest_B  the sequences, longest first: row j of any step belongs to sequence longest_B[j]
    widths_S   how many sequences are still running at each step
    """

    index_T: Tensor
    inverse_T: Tensor
    longest_B: Tensor
    widths_S: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """Where each sequence of a ragged batch lies. `lengths`: [B] int64 on the CPU, none negative.

    Checked once, here, and taken for granted afterwards. What is derived from the lengths is computed when first
    asked for and kept; only the lengths travel through a pickle.

    Raises:
        TypeError: the lengths are not integers.
        ValueError: they are not one-dimensional, not on the CPU, or one is negative.
    """

    lengths: Tensor

    def __post_init__(self) -> None:
        lengths = torch.as_tensor(self.lengths)
        if lengths.numel() == 0 and lengths.dim() == 1:
            lengths = lengths.long()
        if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
            raise TypeError(f"lengths must be integers, got {lengths.dtype}")
        if lengths.dim() != 1:
            raise ValueError(f"lengths must have one dimension [B], got shape {tuple(lengths.shape)}")
        if lengths.device.type != "cpu":
            raise ValueError(f"lengths must stay on the CPU (loops are planned from them), got {lengths.device}")
        if lengths.numel() and int(lengths.min()) < 0:
            raise ValueError(f"lengths must not be negative, got {int(lengths.min())}")
        object.__setattr__(self, "lengths", lengths.to(torch.int64))

    def __len__(self) -> int:
        return self.lengths.numel()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self is other or torch.equal(self.lengths, other.lengths))

    __hash__ = None  # type: ignore[assignment]  # equal by value, and the value is a tensor

    def __repr__(self) -> str:
        return f"Layout({len(self)} sequences, {self.total} tokens, longest {self.longest})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unchecked, (self.lengths,)

    @cached_property
    def offsets(self) -> Tensor:
        """[B + 1] int64: sequence i is rows offsets[i] : offsets[i + 1]."""
        return offsets_of(self.lengths)

    @cached_property
    def total(self) -> int:
        """T, the number of tokens."""
        return int(self.lengths.sum())

    @cached_property
    def longest(self) -> int:
        """S, the length of the longest sequence; 0 for a batch of none."""
        return int(self.lengths.max()) if len(self) else 0

    @cached_property
    def positions(self) -> Tensor:
        """[T] int64: the place of each token inside its own sequence."""
        return positions_of(self.lengths)

    @cached_property
    def segments(self) -> Tensor:
        """[T] int64: the sequence each token belongs to."""
        return segments_of(self.lengths)

    @cached_property
    def runs(self) -> list[Run]:
        """Runs of equal length, in order; sequences of length 0 have no rows and no run."""
        return [Run(*run) for run in runs_of(self.lengths)]

    @cached_property
    def time_major(self) -> TimeMajor:
        """The order in which recurrences read."""
        return TimeMajor(*time_major_of(self.lengths))

    def select(self, indices: Tensor) -> tuple[Layout, Tensor]:
        """The layout of the chosen sequences, and the rows [T'] int64 to gather for them."""
        lengths = self.lengths[indices]
        return _unchecked(lengths), rows_of(self.offsets[:-1][indices], lengths)


def _unchecked(lengths: Tensor) -> Layout:
    """A layout from lengths that another layout has already checked."""
    layout = object.__new__(Layout)
    object.__setattr__(layout, "lengths", lengths)
    return layout


@dataclass(frozen=True, eq=False, repr=False)
class Ragged:
    """A batch of sequences without padding: `values` [T, ...] and the `layout` of its rows.

    Raises:
        ValueError: the values do not have as many rows as the layout has tokens.
    """

    values: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        if self.values.dim() == 0 or self.values.shape[0] != self.layout.total:
            raise ValueError(
                f"values of shape {tuple(self.values.shape)} do not fit {self.layout}: one row per token expected"
            )

    @classmethod
    def from_list(cls, sequences: Sequence[Tensor]) -> Ragged:
        """From tensors [L_i, ...] that agree in everything but their length."""
        if not sequences:
            raise ValueError("from_list needs at least one sequence; make an empty batch with Ragged(values, layout)")
        if any(sequence.dim() == 0 for sequence in sequences):
            raise ValueError("a sequence needs a dimension of length: got a tensor of shape ()")
        return cls(torch.cat(list(sequences)), Layout(torch.tensor([len(sequence) for sequence in sequences])))

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor | Sequence[int]) -> Ragged:
        """From [B, S, ...] with sequence i in padded[i, :lengths[i]]. For interchange: no model computes on padding."""
        layout = Layout(torch.as_tensor(lengths))
        if padded.dim() < 2 or padded.shape[0] != len(layout) or padded.shape[1] < layout.longest:
            raise ValueError(f"padded of shape {tuple(padded.shape)} cannot hold {layout}")
        rows = layout.segments * padded.shape[1] + layout.positions
        return cls(padded.flatten(0, 1)[rows.to(padded.device)], layout)

    def to_padded(self, fill: float = 0) -> Tensor:
        """[B, S, ...] with `fill` after the end of each sequence."""
        padded = self.values.new_full((len(self), self.layout.longest, *self.values.shape[1:]), fill)
        where = (self.layout.segments.to(self.device), self.layout.positions.to(self.device))
        return padded.index_put(where, self.values)

    @property
    def lengths(self) -> Tensor:
        """[B] int64, on the CPU."""
        return self.layout.lengths

    @property
    def offsets(self) -> Tensor:
        """[B + 1] int64, on the CPU."""
        return self.layout.offsets

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __len__(self) -> int:
        return len(self.layout)

    def __repr__(self) -> str:
        return f"Ragged({tuple(self.values.shape)} {self.values.dtype} on {self.device}, {self.layout})"

    def to_list(self) -> list[Tensor]:
        """The sequences, as views."""
        return list(self.values.split(self.lengths.tolist())) if len(self) else []

    def with_values(self, values: Tensor) -> Ragged:
        """Other values in the same layout."""
        return Ragged(values, self.layout)

    def map(self, function: Callable[[Tensor], Tensor]) -> Ragged:
        """A function that works token by token, such as a linear layer or a norm, applied to all rows at once."""
        return self.with_values(function(self.values))

    def select(self, indices: Tensor | Sequence[int]) -> Ragged:
        """The chosen sequences, in the order given; one may be chosen twice."""
        layout, rows = self.layout.select(torch.as_tensor(indices, dtype=torch.int64, device="cpu"))
        return Ragged(self.values[rows.to(self.device)], layout)

    @staticmethod
    def cat(batches: Iterable[Ragged]) -> Ragged:
        """The sequences of several batches, in one."""
        batches = list(batches)
        lengths = torch.cat([batch.lengths for batch in batches])
        return Ragged(torch.cat([batch.values for batch in batches]), _unchecked(lengths))

    def to(self, device: torch.device | str) -> Ragged:
        """The values on another device; the layout stays on the host and is shared."""
        if torch.device(device) == self.device:
            return self
        return self.with_values(self.values.to(device, non_blocking=True))


# ----------------------------------------------------------------- the arithmetic, on a plain tensor of lengths [B]


def offsets_of(lengths: Tensor) -> Tensor:
    """[B + 1] int64: 0, then the running sum."""
    offsets = torch.zeros(lengths.shape[0] + 1, dtype=torch.int64)
    offsets[1:] = lengths.cumsum(0)
    return offsets


def segments_of(lengths: Tensor) -> Tensor:
    """[T] int64: [3, 1, 2] gives [0, 0, 0, 1, 2, 2]."""
    return torch.repeat_interleave(lengths)


def rows_of(starts: Tensor, lengths: Tensor) -> Tensor:
    """[T] int64: starts[i], starts[i] + 1, ... for every sequence i, one after the other."""
    shift = starts - (lengths.cumsum(0) - lengths)
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()))


def positions_of(lengths: Tensor) -> Tensor:
    """[T] int64: [3, 1, 2] gives [0, 1, 2, 0, 0, 1]."""
    return rows_of(torch.zeros_like(lengths), lengths)


def joint_runs_of(a: Tensor, b: Tensor) -> list[tuple[int, int, int, int, int]]:
    """(start_a, start_b, sequences, length_a, length_b): neighbours whose lengths repeat; none where length_a is 0."""
    runs: list[tuple[int, int, int, int, int]] = []
    if a.shape[0] == 0:
        return runs
    changes = torch.ones(a.shape[0], dtype=torch.bool)
    changes[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    first = changes.nonzero().flatten()
    counts: list[int] = torch.diff(first, append=torch.tensor([a.shape[0]])).tolist()
    lengths_a: list[int] = a[first].tolist()
    lengths_b: list[int] = b[first].tolist()
    start_a = 0
    start_b = 0
    for count, length_a, length_b in zip(counts, lengths_a, lengths_b):
        if length_a > 0:
            runs.append((start_a, start_b, count, length_a, length_b))
        start_a += count * length_a
        start_b += count * length_b
    return runs


def runs_of(lengths: Tensor) -> list[tuple[int, int, int]]:
    """(start, count, length): [2, 2, 0, 3] gives [(0, 2, 2), (4, 1, 3)]."""
    runs: list[tuple[int, int, int]] = []
    for start, _, count, length, _ in joint_runs_of(lengths, lengths):
        runs.append((start, count, length))
    return runs


def inside_of(lengths: Tensor, length: int) -> Tensor:
    """[B, length] bool: which places of a right-padded block hold a token; on the lengths' device."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)


def widths_of(lengths: Tensor) -> Tensor:
    """[S] int64: how many sequences are longer than 0, 1, 2, ...: [3, 1, 2] gives [3, 2, 1]."""
    ended_by = torch.bincount(lengths, minlength=1).cumsum(0)
    return lengths.shape[0] - ended_by[:-1]


def time_major_of(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """index_T, inverse_T, longest_B, widths_S as `TimeMajor` describes them."""
    longest = torch.argsort(lengths, descending=True, stable=True)
    widths = widths_of(lengths)
    starts = (lengths.cumsum(0) - lengths)[longest]
    index = starts[positions_of(widths)] + segments_of(widths)
    inverse = torch.empty_like(index)
    inverse[index] = torch.arange(index.shape[0])
    return index, inverse, longest, widths
