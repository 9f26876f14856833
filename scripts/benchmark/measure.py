"""Taking turns, agreement, peak memory in a process of its own, and what a row of the table holds."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

Times = dict[str, list[float]]  # seconds of each side, round by round


class Skipped(Exception):
    """A row that cannot be measured here, and why."""


class Disagreement(Exception):
    """Two sides with the same weights compute different things."""


@dataclass(frozen=True)
class Options:
    """How much to measure: `rounds` of every row, fewer (at least 3) where they would take more than `seconds`."""

    rounds: int = 7
    seconds: float = 8.0
    threads: int = 2
    quick: bool = False
    data: Path = Path("../shared/data")

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass
class Row:
    """A line of the table: `values` are what is to reach `target`, one for each round, at least or, else, at most."""

    what: str
    against: str
    values: list[float] = field(default_factory=list)
    target: float | None = None
    at_least: bool = True
    ours: float | None = None  # in `unit`, medians
    theirs: float | None = None
    unit: str = "tokens/s"
    padding: float | None = None
    apart: float | None = None  # the largest relative difference between the sides
    note: str = ""
    samples: Times = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        if len(self.values) < 3:
            return None
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def reached(self) -> bool | None:
        """Whether the median did; None where there is nothing to reach or nothing was measured."""
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def interleaved(sides: Mapping[str, Callable[[], object]], options: Options) -> Times:
    """A B C, A B C, ...: after a round that warms up, the seconds of every side in every round."""
    times: Times = {name: [] for name in sides}
    began = time.perf_counter()
    for number in range(options.rounds + 1):
        if number > 3 and (time.perf_counter() - began) * (number + 1) / number > options.seconds:
            break
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return {name: taken[1:] for name, taken in times.items()}


def versus(times: Times, ours: str, theirs: str, work: Mapping[str, float], what: str, **more: Any) -> Row:
    """A row of real tokens (or other work of a turn) per second, and how many times faster, by round."""
    rates = {side: [work[side] / taken for taken in times[side]] for side in (ours, theirs)}
    values = [a / b for a, b in zip(rates[ours], rates[theirs], strict=True)]
    middle, samples = {side: statistics.median(rates[side]) for side in rates}, {side: times[side] for side in rates}
    return Row(what, theirs, values, ours=middle[ours], theirs=middle[theirs], samples=samples, **more)


def agree(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float = 1e-4) -> float:
    """The largest difference between tensors of the same name, relative to the largest value of theirs.

    Raises:
        Disagreement: it is more than `tolerance`, or not a number.
    """
    if ours.keys() != theirs.keys():
        raise Disagreement(f"the sides compare different things: {sorted(ours.keys() ^ theirs.keys())}")
    worst = 0.0
    for name, mine in ours.items():
        scale = theirs[name].abs().max().clamp(min=1e-12)
        apart = ((mine - theirs[name]).abs().max() / scale).item()
        if not apart <= tolerance:
            raise Disagreement(f"{name} differs by {apart:.1e} of its largest value, allowed are {tolerance:.0e}")
        worst = max(worst, apart)
    return worst


def peak_bytes(build: Callable[..., Sequence[Callable[[], object]]], *arguments: Any) -> list[int]:
    """The most memory that each step holds beyond what was held when it began, in a fresh process (Linux only).

    `build(*arguments)` gives a small step, which warms up, and then those to be measured.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        raise Skipped("peak memory is read from /proc, which this system does not have")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peaks, args=(sender, torch.get_num_threads(), build, arguments))
    with mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536"):  # what is freed goes back to the system
        process.start()
    sender.close()
    try:
        return list(receiver.recv())
    except EOFError as error:
        raise Skipped("the process that measures memory died, perhaps for want of it") from error
    finally:
        process.join()


def _peaks(sender: Connection, threads: int, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    small, *steps = build(*arguments)
    small()
    peaks = []
    for step in steps:
        Path("/proc/self/clear_refs").write_text("5")  # the peak, from now on
        before = _held("VmRSS")
        step()
        peaks.append(_held("VmHWM") - before)
    sender.send(peaks)


def _held(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
