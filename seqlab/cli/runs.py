"""Which run a command means: a new one in a folder of its own, or one to be continued."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from seqlab.bundle import Bundle
from seqlab.cli.command import Command
from seqlab.config.schema import Batching
from seqlab.errors import InputError
from seqlab.training.logging.tensorboard import flatten
from seqlab.training.run_folder import RunFolder, read_metadata

logger = logging.getLogger(__name__)

# What may differ between a run and its continuation: where it lies, and what stops it without changing its numbers.
FREE = ("resume", "output_dir", "trust", "trainer.max_minutes", "trainer.micro_tokens", "loader", "checkpoints")


def open_run(command: Command) -> tuple[dict[str, Any], RunFolder] | None:
    """The configuration to run, and the locked folder to run it in, which holds metadata where a run continues.

    `resume=PATH` continues that run with the configuration stored there; what else was typed must agree with it, or be
    free to differ. `resume=auto` continues the newest unfinished run of the same configuration, and begins one where
    there is none; in a folder that is named and holds such a run, finished, nothing is left to do: None.

    Raises:
        InputError: there is no such run, or it was configured otherwise; or the folder cannot be used.
        FolderInUseError: another process is writing there.
    """
    config = command.config
    named = command.folder or config["output_dir"]
    resume = config["resume"]
    if resume == "auto":
        if named and _finished(Path(named), config):
            return None
        path = _newest_unfinished(config, [Path(named)] if named else list(_root(command).glob("*")))
        if path is not None:
            return config, RunFolder.reopen(path)
    elif resume is not None:
        if named and Path(named).resolve() != Path(resume).resolve():
            raise InputError(f"resume={resume} writes to its own folder; drop output_dir={named}")
        stored = stored_config(resume)
        known = _overrides(resume)
        typed, by_itself = _typed(command, known), _typed(command, known, choices=False)
        different = {key: pair for key, pair in _differences(stored, config).items() if _within(key, typed)}
        if different:
            raise InputError(_told(f"resume={resume}: that run was configured otherwise", different))
        for section in ("trainer", "loader", "checkpoints"):  # by now, what was typed and differs is free to
            for key in stored[section]:
                if _within(f"{section}.{key}", by_itself):
                    stored[section][key] = config[section][key]
        return stored, RunFolder.reopen(resume)
    if not named:
        return config, RunFolder.unique(_root(command) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    return config, RunFolder.create(named)


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


def name_of(path: str | Path) -> str:
    """What a run is called, by its folder or by the bundle there: its `name`, or that of the folder which runs of its
    kind share. A run in a folder that was chosen, and a bundle elsewhere, are called as that is."""
    path = Path(path).resolve()
    folder = path.parent if path.name == "bundle" else path
    if not (folder / "run.json").exists():
        return path.name
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?", folder.name)
    called = folder.parent.name if dated else folder.name
    try:
        return str(stored_config(folder).get("name") or called)
    except InputError:
        return called


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


def config_for_evaluation(run: Path, loaded: Bundle, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `experiment.build_data` needs to read the data that a model is evaluated on.

    Args:
        run: a run folder, which knows its data, or a bundle.
        loaded: the bundle that is there: long examples are cut as in training. What training refused or left out
            is evaluated, as long as it fits into a batch.
        data: other data, or None.

    Raises:
        InputError: a bundle, and no data.
    """
    batch: dict[str, Any] = {}
    if loaded.max_length is not None and loaded.over_long in ("split", "truncate"):
        tokens = max(loaded.max_length, Batching.tokens)
        batch = {"max_length": loaded.max_length, "over_long": loaded.over_long, "tokens": tokens}
    config: dict[str, Any] = {"batch": batch, "loader": {}, "seed": 0}
    if (run / "config.yaml").exists():
        config = stored_config(run)
        config["batch"]["first_batches"] = None
    elif data is None:
        raise InputError(
            f"run={run} is a bundle and does not know its data: add data=text data.path=FILE, or another data="
        )
    if data is not None:
        config["data"] = data
        config["batch"]["streaming"] = False
    return config


def whole(run: Path, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The data with all of it as its test split, where that would be cut from files; None where it is not, or where
    the run was trained on these files, and so on most of what is in them.

    It is validation data too, for of a few rows a tenth may be none.
    """
    held = _held(data)
    if held is None or data["test"] is not None:
        return None
    trained = _held(stored_config(run)["data"]) if (run / "config.yaml").exists() else None
    if trained is not None and _absolute(trained) == _absolute(held):
        return None
    return {**data, "validation": data["validation"] or held, "test": held}


def describe_evaluated(data: Mapping[str, Any] | None, split: str) -> str:
    """Describe the data of an evaluation, such as "all of reviews.csv" or "test of stanfordnlp/imdb"."""
    if data is None:
        return f"{split} of the run's data"
    held = _held(data)
    if held is None:
        return f"{split} of {data.get('path') or data['_target_'].rpartition('.')[2]}"
    cut = None in (data["validation"], data["test"]) if split == "train" else data[split] is None
    named = held if cut or split == "train" else data[split]
    place = named if isinstance(named, str) else " and ".join(named)
    return f"{split}, as cut from {place}" if cut else f"all of {place}"


def _held(data: Mapping[str, Any]) -> Any:
    """The file, or the pair of files, that splits are cut from where they are not named; None where none is cut so."""
    if not {"validation", "test"} <= data.keys() or not str(data["_target_"]).startswith("seqlab."):
        return None
    return [data["source"], data["target"]] if {"source", "target"} <= data.keys() else data.get("path")


def _absolute(held: str | list[str]) -> list[Path]:
    return [Path(path).absolute() for path in ([held] if isinstance(held, str) else held)]


def require_same(stored: Mapping[str, Any], now: Mapping[str, Any], path: Path, advice: str = "") -> None:
    """Whether a run is used with the data, plan and model it was begun with.

    Raises:
        InputError: with a line for each fact that differs.
    """
    different = {key: (stored[key], value) for key, value in now.items() if key in stored and stored[key] != value}
    if different:
        raise InputError(_told(f"{path} was begun with other input", different) + (f"\n{advice}" if advice else ""))


def warn_of_other_bits(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Tells where a run is continued on something that computes the same, but rounds otherwise."""
    changed = [key for key in ("device", "threads", "kernels") if key in stored and stored[key] != now[key]]
    if changed:
        changes = "; ".join(f"{key}: {stored[key]} at its start, {now[key]} now" for key in changed)
        logger.warning("the run goes on, but not to the same bits: %s", changes)


def _root(command: Command) -> Path:
    chosen = [command.choices[group] for group in ("data", "task", "model")]
    name = command.config["name"] or "-".join(choice for choice in chosen if choice != "language_modeling")
    return Path("runs") / str(name)


def _newest_unfinished(config: Mapping[str, Any], candidates: list[Path]) -> Path | None:
    """The newest of these folders with an unfinished run of this configuration; None where none is unfinished.

    Raises:
        InputError: there are unfinished ones, all of them configured otherwise.
    """
    unfinished = []
    for path in candidates:
        try:
            if (path / "run.json").exists() and (metadata := read_metadata(path))["status"] != "success":
                unfinished.append((metadata["started"], path, stored_config(path)))
        except InputError as error:
            logger.warning("passed over: %s", error)
    differing = None
    for _, path, stored in sorted(unfinished, key=lambda one: one[0], reverse=True):
        different = _differences(stored, config)
        if not different:
            return path
        differing = differing or _told(
            f"resume=auto: the newest unfinished run, {path}, was configured otherwise", different
        )
    if differing:
        raise InputError(f"{differing}\nrepeat its overrides, or drop resume=auto to begin a new run")
    return None


def _finished(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder holds a run of this configuration that has ended well."""
    if not (path / "run.json").exists() or read_metadata(path)["status"] != "success":
        return False
    return not _differences(stored_config(path), config)


def _overrides(run: str | Path) -> list[str]:
    """What was typed when a run was begun."""
    path = Path(run)
    return list(read_metadata(path).get("overrides", [])) if (path / "run.json").exists() else []


def _typed(command: Command, known: Iterable[str], choices: bool = True) -> list[str]:
    """The dotted keys that were typed, besides words that are known already.

    "tokenizer@form.target_tokenizer=words" is about what stands behind the @. A choice such as "experiment=scan_simple"
    stands nowhere in the configuration and may be about all of it; without `choices` it is left out.
    """
    typed: list[str] = []
    for word in set(command.overrides) - set(known):
        group, _, package = word.partition("=")[0].lstrip("+~").partition("@")
        key = package.rpartition(":")[2] or group.replace("/", ".")
        if group not in command.choices or key.partition(".")[0] in command.config:
            typed.append(key)
        elif choices and command.choices[group] != "none":
            typed += list(command.config)
    return typed


def _within(key: str, names: Iterable[str]) -> bool:
    """Whether a dotted key is one of the names, or inside one: "trainer.clip" is within "trainer"."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key: (stored, given) wherever the two differ, and may not."""
    a, b = flatten(stored), flatten(given)
    keys = [key for key in {**a, **b} if not _within(key, (*FREE, "task.model.encoder"))]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


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
