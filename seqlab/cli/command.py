"""What surrounds every verb: its configuration, sweeps, messages and exit codes.

A verb hands `run_verb` its job and the name of its configuration. In goes the command line, the job receives a
`Command`, out comes an exit code. Hydra composes conf/ and runs sweeps; what failing means is decided here.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.utils import get_args_parser  # Hydra's flags have no public name
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from seqlab.config.compose import VERSION_BASE, check, conf_folder, first_job, quoted, targets
from seqlab.errors import InputError, SeqlabError, StoppedError


@dataclass(frozen=True)
class Command:
    """What the user asked for.

    config     the composed configuration, resolved, as plain dicts and lists
    overrides  what was typed, such as "model=gru"; in a sweep, this job's share of it
    trust      every `_target_` typed among them, and the modules in `trust=`: the user's own word
    choices    the file chosen in every group, such as {"model": "gru"}
    folder     where this job of a sweep writes; None outside sweeps
    """

    config: dict[str, Any]
    overrides: tuple[str, ...]
    trust: frozenset[str]
    choices: dict[str, str]
    folder: Path | None


@dataclass(frozen=True)
class Failure:
    """A job of a sweep that failed."""

    job: str
    message: str
    exit_code: int


def run_verb(job: Callable[[Command], object], config_name: str) -> None:
    """Run a verb as sys.argv asks, and leave the process with an exit code unless all went well.

    A failing job of a sweep stops no other: its message is printed, and kept as error.txt in its folder. In the end all
    that failed are listed, and the exit code is the first one's.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for the user's own modules; `python -m` does this, a console script does not
    try:
        failures = _compose_and_run(job, config_name)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(_report(error))
    if failures:
        print("\njobs that failed:", file=sys.stderr)
        for failure in failures:
            print(f"  {failure.job} (exit code {failure.exit_code}): {failure.message}", file=sys.stderr)
        sys.exit(failures[0].exit_code)


def _compose_and_run(job: Callable[[Command], object], config_name: str) -> list[Failure]:
    failures: list[Failure] = []
    jobs: list[tuple[str, Path, tuple[str, ...]]] = []

    def task(config: DictConfig) -> object:
        settings = HydraConfig.get()
        overrides = tuple(cast(list[str], OmegaConf.to_container(settings.overrides.task)))  # interpolations as typed
        folder = Path(settings.sweep.dir, settings.sweep.subdir) if settings.mode == RunMode.MULTIRUN else None
        name = "" if folder is None else f"job {settings.job.num}: {' '.join(overrides)}"
        if folder is not None:
            print(f"{name} -> {folder}", flush=True)
            jobs.append((name, folder, overrides))
            if not (folder / "run.json").exists():  # else it is for the run to say that it has got further
                (folder / "error.txt").unlink(missing_ok=True)
        try:
            plain = _plain(config)
            trust = targets(overrides) | _trusted(plain.get("trust") or [])
            choices = {str(group): choice for group, choice in settings.runtime.choices.items()}
            return job(Command(plain, overrides, trust, choices, folder))
        except Exception as error:  # caught here, because Hydra has messages and an exit code of its own
            exit_code = _report(error)
            if folder is None or isinstance(error, StoppedError):
                sys.exit(exit_code)
            if not (folder / "run.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            failures.append(Failure(name, str(error).partition("\n")[0], exit_code))
            return None

    flags = get_args_parser().parse_intermixed_args()
    # Hydra reads sys.argv again, and in 1.3 it cannot take flags between overrides.
    sys.argv[1:] = [*flags.overrides, *(word for word in sys.argv[1:] if word not in flags.overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing and leaving with exit code 1
    root = None
    try:
        if not flags.shell_completion:
            running = not (flags.help or flags.hydra_help or flags.cfg or flags.info)
            name = flags.config_name or config_name
            check(flags.overrides, name, flags.config_dir, sweep=flags.multirun, complete=running)
            if flags.multirun and running:
                root = _sweep_root(first_job(flags.overrides, name, flags.config_dir))
                sys.argv.insert(1, f"hydra.sweep.dir={quoted(str(root))}")
        hydra.main(config_path=str(conf_folder()), config_name=config_name, **VERSION_BASE)(task)()
        failed = {failure.job for failure in failures}
        _compare([(folder, words) for name, folder, words in jobs if name not in failed])
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise InputError(f"{error}\n{error.__cause__ or ''}".strip()) from error
    finally:
        if root is not None:
            with suppress(OSError):
                (root / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; each job has its whole configuration
                root.rmdir()  # only where no job has begun
    return failures


def _compare(jobs: list[tuple[Path, tuple[str, ...]]]) -> None:
    """What finished jobs of a sweep differ in, and how well the best checkpoint of each does, by its summary.json.

    Nothing where the verb leaves no such file. By validation data alone: whoever chooses by the test split has none.
    """
    files = {folder: folder / "summary.json" for folder, _ in jobs}
    found = {folder: json.loads(file.read_bytes()) for folder, file in files.items() if file.exists()}
    found = {folder: summary for folder, summary in found.items() if "monitor" in summary}
    if not found:
        return
    from rich.console import Console  # late, like all that --help does not need
    from rich.table import Table

    shared = set.intersection(*(set(overrides) for _, overrides in jobs))
    given = [dict(word.partition("=")[::2] for word in overrides if word not in shared) for _, overrides in jobs]
    keys = list(dict.fromkeys(key for words in given for key in words))
    monitors = list(dict.fromkeys(summary["monitor"] for summary in found.values()))
    print(f"\nthe best checkpoint of each job in {jobs[0][0].parent}, on validation data")
    table = Table()
    for heading in ("job", *keys, *monitors, "step"):
        table.add_column(heading, overflow="fold")
    for (folder, _), words in zip(jobs, given, strict=True):
        summary = found.get(folder, {"monitor": None, "validation_best": {}})
        best = summary["validation_best"].get(summary["monitor"])
        figures = ["" if name != summary["monitor"] or best is None else f"{best:.4f}" for name in monitors]
        step = "no result" if best is None else str(summary["best_step"])
        table.add_row(folder.name, *(words.get(key, "") for key in keys), *figures, step)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _sweep_root(first: DictConfig) -> Path:
    """Make the folder of the jobs' folders: Hydra's setting if there is one, else `output_dir`, else one in runs/."""
    named = first.hydra.sweep.dir or first.get("output_dir")
    root = Path(named or f"runs/{first.get('name') or 'sweep'}/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the sweep's folder: {error}; choose another with output_dir=...") from error
    return root


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {error}") from error


def _trusted(modules: str | list[str]) -> set[str]:
    """The modules that `trust=` names; of which none is imported before it is needed.

    Raises:
        InputError: one is not there.
    """
    names = set(map(str, modules)) if isinstance(modules, list) else {str(modules)}
    for name in names:
        package = name.partition(".")[0]  # to find what is inside would import it
        try:
            there = find_spec(package) is not None
        except (ImportError, ValueError):  # of what is no name, or has been made by hand
            there = False
        if not there:
            raise InputError(f"trust={name}: there is no module {package} here, nor one installed")
    return names


def _report(error: Exception) -> int:
    """Tell the person what went wrong, on standard error; the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, SeqlabError):
        print("error: " + str(error).replace("\n", "\n       "), file=sys.stderr)
        return error.exit_code
    traceback.print_exception(error)
    return 1
