"""What the person at the terminal sees while a run trains."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from seqlab.training.state import State

HIDDEN = {"by_length", "step", "split", "epoch", "tokens", "sequences", "seconds"}


class ProgressLine:
    """One line that is written over at every point; plain lines where the stream is not a terminal.

    Evaluations keep a line of their own. On a terminal a line is cut to the width, and the cursor waits at its
    beginning, so that a warning in between stays readable.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()

    def start(self, state: State) -> None:
        if state.step:
            self._write(f"continuing after step {state.step}", stays=True)

    def point(self, point: Mapping[str, Any]) -> None:
        if point["split"] == "train":
            self._write(training_line(point), stays=False)
        else:
            self._write(evaluation_line(point), stays=True)

    def flush(self) -> None:
        self.stream.flush()

    def close(self, status: str) -> None:
        if self.terminal:
            self.stream.write("\n")
        self.stream.flush()

    def _write(self, line: str, stays: bool) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns
            self.stream.write("\x1b[2K" + line[: width - 1] + ("\n" if stays else "\r"))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def training_line(point: Mapping[str, Any]) -> str:
    """`step 420  loss 3.2140  12,345 tokens/s  61 % padding avoided  1:23 left`"""
    parts = [f"step {point['step']}"]
    if "loss" in point:
        parts.append(f"loss {point['loss']:.4f}")
    parts += [f"{point['tokens_per_s']:,.0f} tokens/s", f"{100 * point['padding_fraction']:.0f} % padding avoided"]
    if round(point["seconds_left"] or 0):  # at the end there is still an evaluation
        parts.append(f"{clock(point['seconds_left'])} left")
    return "  ".join(parts)


def evaluation_line(point: Mapping[str, Any]) -> str:
    """`step 420  validation  loss 3.1000  ppl 22.20  best so far`"""
    shown = {name: value for name, value in point.items() if not (name in HIDDEN or name[:5] == "best_" or "/" in name)}
    parts = [f"step {point['step']}", point["split"], *(f"{name} {value:.4f}" for name, value in shown.items())]
    if point.get("best_step") == point["step"]:
        parts.append("best so far")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """83 gives 1:23, 3723 gives 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
