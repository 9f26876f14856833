"""Everything a run tells while it trains, behind one door: metrics.jsonl, TensorBoard, the progress line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from seqlab.training.logging.json_lines import MetricsLog
from seqlab.training.logging.tensorboard import TensorBoardLog
from seqlab.training.logging.terminal import ProgressLine
from seqlab.training.run_folder import status_of
from seqlab.training.state import State

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """One place that points go to."""

    def start(self, state: State) -> None: ...
    def point(self, point: dict[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def close(self, status: str) -> None: ...


class RunLog:
    """Hands every point to all writers. One that fails is dropped with one warning; training goes on without it.

    Args:
        folder: of the run.
        configuration: nested plain values, for the HParams table.
        text: the configuration as people read it.
        lengths: of the training sequences, for the histogram.
        stream: of the progress line; standard error unless given.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any] | None = None,
        text: str = "",
        lengths: Sequence[int] = (),
        stream: TextIO | None = None,
    ) -> None:
        self._tensorboard = TensorBoardLog(folder, configuration or {}, text, lengths)
        self._idle: list[Writer] = [MetricsLog(folder), self._tensorboard, ProgressLine(stream)]
        self._writers: list[Writer] = []

    def start(self, state: State) -> None:
        """Opens the writers; each drops what it holds from beyond this state, which is about to be done again."""
        self._writers, self._idle = self._idle, []
        self._each("start", state)

    def train_point(self, state: State, figures: Mapping[str, float], seconds_left: float | None) -> None:
        """The averages since the last such point; how long training will go on, where that can be foreseen."""
        self._each("point", {**_place(state, "train"), **figures, "seconds_left": seconds_left})

    def evaluation(self, state: State, split: str, metrics: Mapping[str, Any]) -> None:
        """Figures over all of "validation" or "test"."""
        self._each("point", {**_place(state, split), **metrics})

    def text(self, tag: str, text: str, step: int) -> None:
        """Samples, for TensorBoard's Text page."""
        self._each("text", tag, text, step, only=self._tensorboard)

    def flush(self) -> None:
        """What was logged so far survives the process; called before a checkpoint says that it was."""
        self._each("flush")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._each("close", status_of(error))

    def _each(self, method: str, *arguments: Any, only: Writer | None = None) -> None:
        for writer in [writer for writer in self._writers if only in (None, writer)]:
            try:
                getattr(writer, method)(*arguments)
            except Exception as error:  # whatever it is, a log must not end a run
                self._writers.remove(writer)
                logger.warning("%s stopped, training goes on without it: %s", type(writer).__name__, error)


def _place(state: State, split: str) -> dict[str, Any]:
    """Where training stands, at the head of every point."""
    place = {"step": state.step, "split": split, "epoch": state.position.epochs}
    return {**place, "tokens": state.tokens, "sequences": state.sequences, "seconds": state.seconds}
