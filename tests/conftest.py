"""Settings and fixtures of all tests, and the summary of what was skipped."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import settings

from seqlab import check, evaluate, export, predict, report, serve, train
from seqlab.cli import results
from tiny_bundles import TASKS, TRANSFORMER, save
from typing_words import Outcome

settings.register_profile("seqlab", deadline=None, max_examples=25)
settings.load_profile("seqlab")
torch.set_num_threads(1)  # results depend on the number of threads
if yaml.__with_libyaml__:  # OmegaConf derives its loader from this class; a command parses some forty files
    yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc]

VERBS = {
    "train": train, "evaluate": evaluate, "predict": predict, "check": check, "report": report, "serve": serve,
    "export": export,
}  # fmt: skip


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of prepared corpora that all commands share: equal data is tokenized once."""
    return tmp_path_factory.mktemp("corpora")


@pytest.fixture
def verb(
    tmp_path: Path, corpora: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command in an empty folder. Returns its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQLAB_CACHE", str(corpora))
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


@pytest.fixture
def one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write one sample at the end of a run instead of five, which takes longer than a tiny training."""
    monkeypatch.setattr(results, "SAMPLES", 1)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each: by the name of its task, and of its task and "-transformer"."""
    root = tmp_path_factory.mktemp("bundles")
    folders = {task: save(root / task, task) for task in TASKS}
    return folders | {f"{task}-transformer": save(root / f"{task}-t", task, TRANSFORMER) for task in TASKS}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write tests/golden anew")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each reason to skip, with the number of tests."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[-1]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped tests")
    for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        terminalreporter.line(f"{count:4d}  {reason}")
