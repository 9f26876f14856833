"""A bundle of every task, saved once for all tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundles import TASKS, TRANSFORMER, save


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each: by the name of its task, and of its task and "-transformer"."""
    root = tmp_path_factory.mktemp("bundles")
    folders = {task: save(root / task, task) for task in TASKS}
    return folders | {f"{task}-transformer": save(root / f"{task}-t", task, TRANSFORMER) for task in TASKS}
