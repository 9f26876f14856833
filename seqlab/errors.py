"""Errors that speak to the person, and the exit code each of them ends a program with.

A message says what was given, what was expected and which override to change. Everything that is not one of
these is a defect of ours and ends with exit code 1 and a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SeqlabError(Exception):
    """Base of the errors below. `exit_code` is what the process returns."""

    exit_code = 1


class InputError(SeqlabError):
    """The user's input or configuration is wrong."""

    exit_code = 2


class CheckpointError(SeqlabError):
    """No valid checkpoint to continue from."""

    exit_code = 3


class FolderInUseError(SeqlabError):
    """Another process is writing to the output folder."""

    exit_code = 4


class NonFiniteError(SeqlabError):
    """The loss or a gradient is not a finite number."""

    exit_code = 5


class DataError(SeqlabError):
    """Reading data failed while training: a worker died, or a stored table is damaged."""

    exit_code = 6


class CheckFailedError(SeqlabError):
    """A check, or the parity of an export, found a difference."""

    exit_code = 8


class StoppedError(SeqlabError):
    """Stopped by a signal, after saving. The exit code is 128 + the signal's number (shell convention)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def counted(number: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def require_positive(section: str, **settings: float | None) -> None:
    """Whether those that are given are more than 0.

    Raises:
        InputError: names the others.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if wrong := [f"{section}.{name}={value}" for name, value in given.items() if not value > 0]:  # NaN is not
        raise InputError(f"{', '.join(wrong)}: expected more than 0")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A hint like " (did you mean trainer.max_steps?)", or "" where nothing known is close."""
    close = get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
