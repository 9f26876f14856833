"""metrics.jsonl: a JSON object per line and logged point, floats exact, null where a figure is no finite number."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from seqlab.storage.files import replace_file
from seqlab.storage.json import dump_json
from seqlab.training.state import State


def read_points(path: Path) -> list[dict[str, Any]]:
    """The points of a metrics.jsonl in order, without damaged lines and a last one that was not finished."""
    points = []
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                points.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                continue
    return points


class MetricsLog:
    """Writes `metrics.jsonl` in a run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def start(self, state: State) -> None:
        """Drops what was logged after the checkpoint that `state` comes from: it is about to be done again."""
        last = {"train": state.step, "validation": state.evaluated}
        kept = [point for point in read_points(self.path) if point["step"] <= last.get(point["split"], -1)]
        replace_file(self.path, "".join(dump_json(point) + "\n" for point in kept).encode())
        self._file = open(self.path, "a")  # noqa: SIM115 closed by close()

    def point(self, point: dict[str, Any]) -> None:
        self._file.write(dump_json(point) + "\n")
        self._file.flush()

    def flush(self) -> None:
        os.fsync(self._file.fileno())

    def close(self, status: str) -> None:
        self._file.close()
