"""Which run a command means: a new one in a folder of its own, or one to be continued."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from seqlab.command_line import Command
from seqlab.errors import InputError
from seqlab.training.run_folder import RunFolder, read_facts

# What may differ between a run and its continuation: where it lies, and what stops it without changing its numbers.
FREE = ("resume", "output_dir", "trust", "trainer.max_minutes")


def open_run(command: Command) -> tuple[dict[str, Any], RunFolder, bool]:
    """The configuration to run, the locked folder to run it in, and whether it continues.

    `resume=PATH` continues that run with the configuration stored there; what else was typed must agree with it.
    `resume=auto` continues the newest unfinished run of the same configuration, and begins one where there is none.

    Raises:
        InputError: there is no such run, or it was configured otherwise; or the folder cannot be used.
        FolderInUseError: another process is writing there.
    """
    config = command.config
    named = command.folder or config["output_dir"]
    resume = config["resume"]
    if resume == "auto":
        path = _newest_unfinished(config, [Path(named)] if named else sorted(_root(command).glob("*")))
        if path is not None:
            return config, RunFolder.reopen(path), True
    elif resume is not None:
        if named and Path(named).resolve() != Path(resume).resolve():
            raise InputError(f"resume={resume} writes to its own folder; drop output_dir={named}")
        stored = stored_config(resume)
        typed = [override.partition("=")[0].lstrip("+~").partition("@")[0] for override in command.overrides]
        different = {
            key: pair
            for key, pair in _differences(stored, config).items()
            if any(f"{key}.".startswith(f"{name}.") for name in typed)
        }
        if different:
            raise InputError(_told(f"resume={resume}: that run was configured otherwise", different))
        stored["trainer"]["max_minutes"] = config["trainer"]["max_minutes"]
        return {**stored, "resume": resume, "trust": config["trust"]}, RunFolder.reopen(resume), True
    if not named:
        named = RunFolder.unique(_root(command) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    folder = RunFolder.create(named, yaml.safe_dump(config, sort_keys=False), provenance(command))
    return config, folder, False


def stored_config(run: str | Path) -> dict[str, Any]:
    """The configuration a run was started with.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(run) / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{run} is not a run folder: cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged: it holds no settings")
    return config


def provenance(command: Command) -> dict[str, Any]:
    """Where a run comes from, for run.json."""
    packages = ("seqlab", "torch", "datasets", "tokenizers", "hydra-core", "tensorboard", "numpy", "pyarrow")
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "overrides": list(command.overrides),
        "seed": command.config["seed"],
        "git": _git(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "host": {"name": socket.gethostname(), "machine": platform.machine(), "system": platform.platform()},
    }


def require_same(stored: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Whether a run would be continued with the data, plan and model it was begun with.

    Raises:
        InputError: with a line for each fact that differs.
    """
    different = {key: (stored[key], value) for key, value in now.items() if key in stored and stored[key] != value}
    if different:
        raise InputError(_told(f"{path} cannot be continued: it was begun with other input", different))


def _root(command: Command) -> Path:
    name = command.config["name"] or "-".join(command.choices[group] for group in ("data", "model"))
    return Path("runs") / str(name)


def _newest_unfinished(config: Mapping[str, Any], candidates: list[Path]) -> Path | None:
    """The newest of these folders with an unfinished run of this configuration; None where none is unfinished.

    Raises:
        InputError: there are unfinished ones, all of them configured otherwise.
    """
    differing = None
    for path in reversed(candidates):
        if not (path / "run.json").exists() or read_facts(path)["status"] == "success":
            continue
        different = _differences(stored_config(path), config)
        if not different:
            return path
        differing = differing or _told(
            f"resume=auto: the newest unfinished run, {path}, was configured otherwise", different
        )
    if differing:
        raise InputError(f"{differing}\nrepeat its overrides, or drop resume=auto to begin a new run")
    return None


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key: (stored, given) wherever the two differ, and may not."""
    a, b = _flat(stored), _flat(given)
    keys = [key for key in {**a, **b} if key not in FREE and not key.startswith("task.model.encoder.")]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _told(headline: str, different: Mapping[str, tuple[Any, Any]]) -> str:
    return "\n".join([headline, *(f"{key}: {was} there, {now} now" for key, (was, now) in different.items())])


def _git() -> dict[str, Any] | None:
    """The commit of the working folder, and whether it has changes; None outside a repository."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
