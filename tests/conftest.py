"""For all tests: how long hypothesis searches, one thread so that figures repeat, verbs, a bundle of every task."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from seqlab import check, evaluate, export, predict, report, serve, train
from tiny_bundles import TASKS, TRANSFORMER, save
from typing_words import Outcome

settings.register_profile("seqlab", deadline=None, max_examples=25)
settings.load_profile("seqlab")
torch.set_num_threads(1)

VERBS = {
    "train": train, "evaluate": evaluate, "predict": predict, "check": check, "report": report, "serve": serve,
    "export": export,
}  # fmt: skip


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Types a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(name: str, *words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"seqlab.{name}", *words])
        code = 0
        try:
            VERBS[name].main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each: by the name of its task, and of its task and "-transformer"."""
    root = tmp_path_factory.mktemp("bundles")
    folders = {task: save(root / task, task) for task in TASKS}
    return folders | {f"{task}-transformer": save(root / f"{task}-t", task, TRANSFORMER) for task in TASKS}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write tests/golden anew")
