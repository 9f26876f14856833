"""Learning-rate schedules: pure functions of the step and of progress.

A factor of the base rate, for the step about to be taken. `step` counts optimizer steps from 0 and drives the warm-up;
`progress` in [0, 1] is `Limits.progress` and drives the decay, so that a schedule spans steps, epochs or tokens alike.
The factor is the lower of the two: the rate climbs until it meets the decay curve, then follows it.

    warm-up over 4 steps: 1/4, 2/4, 3/4, 1, 1, ...
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from seqlab.errors import InputError


class Schedule(ABC):
    """A learning-rate schedule.

    Attributes:
        warmup_steps: in how many steps the rate climbs at the beginning; 0 by default.
    """

    warmup_steps: int = 0

    @abstractmethod
    def factor(self, step: int, progress: float) -> float:
        """Return the factor of the base learning rate."""
        ...


def _warm_up(step: int, warmup_steps: int) -> float:
    return (step + 1) / warmup_steps if step < warmup_steps else 1.0


def _require(warmup_steps: int, floor: float = 0.0) -> None:
    if warmup_steps < 0:
        raise InputError(f"schedule.warmup_steps={warmup_steps}: expected 0 or more steps")
    if not 0 <= floor <= 1:
        raise InputError(f"schedule.floor={floor}: expected a fraction of the learning rate, from 0 to 1")


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `floor` (Loshchilov and Hutter 2017, without restarts), after a warm-up."""

    warmup_steps: int = 100
    floor: float = 0.1

    def __post_init__(self) -> None:
        _require(self.warmup_steps, self.floor)

    def factor(self, step: int, progress: float) -> float:
        decay = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
        return min(_warm_up(step, self.warmup_steps), decay)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from 1 down to `floor`, after a warm-up."""

    warmup_steps: int = 100
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require(self.warmup_steps, self.floor)

    def factor(self, step: int, progress: float) -> float:
        return min(_warm_up(step, self.warmup_steps), 1 - (1 - self.floor) * progress)


@dataclass(frozen=True)
class Constant(Schedule):
    """1, after a warm-up."""

    warmup_steps: int = 100

    def __post_init__(self) -> None:
        _require(self.warmup_steps)

    def factor(self, step: int, progress: float) -> float:
        return _warm_up(step, self.warmup_steps)
