"""When training ends, and how much of it is done."""

from __future__ import annotations

from dataclasses import dataclass, fields

from seqlab.errors import InputError, require_positive


@dataclass(frozen=True)
class Limits:
    """Training ends at whichever limit it reaches first.

    Steps, epochs and tokens measure progress, and schedules span them. Minutes only stop: a run that they end is not
    the same run on another machine.

    Raises:
        InputError: no limit is given, or one is not positive.
    """

    max_steps: int | None = None
    max_epochs: int | None = None
    max_tokens: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(limit is None for limit in given.values()):
            names = ", ".join(f"trainer.{name}" for name in given)
            raise InputError(f"training would never end: set at least one of {names}")
        require_positive("trainer", **given)

    def progress(self, steps: int, epochs: float, tokens: int) -> float:
        """From 0 to 1, by the limit nearest to being reached; stays 0 where only minutes are limited."""
        return min(1.0, self.nearest(steps, epochs, tokens)[0])

    def nearest(self, steps: int, epochs: float, tokens: int) -> tuple[float, str]:
        """How much of the limit nearest to being reached is used, and that limit, such as "trainer.max_epochs=5"."""
        pairs = {"max_steps": steps, "max_epochs": epochs, "max_tokens": tokens}
        limits = {name: getattr(self, name) for name in pairs}
        shares = [
            (pairs[name] / limit, f"trainer.{name}={limit}") for name, limit in limits.items() if limit is not None
        ]
        return max(shares, default=(0.0, "trainer.max_minutes"))

    def minutes_used(self, seconds: float) -> float:
        """From 0 on, 1 where the minutes are used up; 0 where they are not limited."""
        return 0.0 if self.max_minutes is None else seconds / (60 * self.max_minutes)
