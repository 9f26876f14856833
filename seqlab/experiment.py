"""From a configuration to everything a run is made of: corpus, loaders, model, task, trainer.

This file, the verbs and what surrounds them (`command_line.py`, `configuration.py`) are the only code that knows how a
configuration is laid out. A part is a plain class that has never heard of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqlab import bundle
from seqlab.data.corpus import Corpus, prepare
from seqlab.data.examples import Examples
from seqlab.data.loader import Loader
from seqlab.data.source import SPLITS
from seqlab.errors import InputError
from seqlab.instantiate import instantiate, mistakes
from seqlab.tasks.task import Task
from seqlab.training.checkpoint import Checkpoints
from seqlab.training.run_folder import RunFolder
from seqlab.training.run_log import RunLog
from seqlab.training.trainer import Trainer

Config = Mapping[str, Any]

TRAINER_PARTS = ("task", "optimizer", "schedule", "train", "validation", "checkpoints", "log", "device", "publish")


@dataclass(frozen=True)
class Settings:
    """The top of the configuration."""

    name: str | None = None
    output_dir: str | None = None
    resume: str | None = None
    trust: str | None = None
    seed: int = 1
    threads: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Batching:
    """How examples are cut and put together; see `seqlab/data/examples.py` and `plan.py`."""

    tokens: int = 2048
    pool: int = 50
    max_length: int | None = None
    over_long: str = "split"
    first_batches: int | None = None


@dataclass(frozen=True)
class Loading:
    """How batches are read; see `seqlab/data/loader.py`."""

    workers: int = 0
    prefetch: int = 2


# Each section of the configuration: the class it holds the arguments of (None where it names a `_target_`), and what is
# found out at run time and passed when that is built.
SECTIONS: dict[str, tuple[type | None, tuple[str, ...]]] = {
    "data": (None, ()),
    "tokenizer": (None, ()),
    "batch": (Batching, ()),
    "loader": (Loading, ()),
    "task": (None, ("vocabulary", "lossless")),
    "optimizer": (None, ("model",)),
    "schedule": (None, ()),
    "checkpoints": (Checkpoints, ("folder",)),
    "trainer": (Trainer, TRAINER_PARTS),
}


@dataclass(frozen=True)
class Experiment:
    """What a configuration describes, built."""

    corpus: Corpus
    loaders: dict[str, Loader]
    task: Task
    specification: dict[str, Any]
    facts: dict[str, Any]
    device: torch.device

    @property
    def bundle(self) -> bundle.Bundle:
        return bundle.Bundle(self.task, self.corpus.tokenizer)

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run is continued, for run.json."""
        return {
            "tokenizer": self.corpus.tokenizer.digest,
            "data": self.corpus.fingerprint,
            "plan": self.loaders["train"].plan(0).digest,
            "parameters": sum(parameter.numel() for parameter in self.task.model.parameters()),
        }


def check(config: Config, trust: Collection[str] = ()) -> None:
    """Whether everything in the configuration has a place and a fitting type, before anything is read or written.

    Raises:
        InputError: with a line for each mistake.
    """
    top = {key: config[key] for key in Settings.__dataclass_fields__ if key in config}
    found = [line.replace("configuration.", "") for line in mistakes(top, "configuration", target=Settings)]
    for key, (target, facts) in SECTIONS.items():
        found += mistakes(config[key], key, target=target, trust=trust, facts=facts)
    if not found:
        found = _contradictions(config)
    if found:
        raise InputError("\n".join(dict.fromkeys(line.replace("task.model.encoder", "model") for line in found)))


def _contradictions(config: Config) -> list[str]:
    """Settings that are each right and cannot be meant together."""
    batch, trainer, schedule = config["batch"], config["trainer"], config["schedule"]
    longest, micro, steps = batch["max_length"], trainer["micro_tokens"], trainer["max_steps"]
    warm_up = schedule.get("warmup_steps", 0)
    found = []
    if longest is not None and longest > batch["tokens"]:
        found.append(f"batch.max_length={longest} cannot fit into batch.tokens={batch['tokens']}")
    if micro is not None and longest is not None and longest > micro:
        found.append(f"batch.max_length={longest} cannot fit into trainer.micro_tokens={micro}")
    if steps is not None and warm_up >= steps:
        found.append(f"schedule.warmup_steps={warm_up} would never end within trainer.max_steps={steps}")
    return found


def build(config: Config, trust: Collection[str] = ()) -> Experiment:
    """The parts of a run, in the order in which they need each other.

    Args:
        config: plain dicts, checked by `check`.
        trust: targets the user has named, or modules of such.

    Raises:
        InputError: what any part has to say against its input.
    """
    device = choose_device(config["device"])
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    corpus, loaders = build_data(config, trust)
    torch.manual_seed(config["seed"])
    facts = {"vocabulary": len(corpus.tokenizer), "lossless": corpus.tokenizer.lossless}
    task = bundle.build(config["task"], facts, trust)
    longest = max(int(loader.examples.lengths.max()) for loader in loaders.values())
    found = []
    for name, limit in (
        ("model.positions.max_length", getattr(task.model, "max_length", None)),
        ("trainer.micro_tokens", config["trainer"]["micro_tokens"]),
    ):
        if limit is not None and longest > limit:
            found.append(f"{name}={limit} is less than the longest sequence, {longest} tokens; lower batch.max_length?")
    if found:
        raise InputError("\n".join(found))
    task.model.to(device)
    return Experiment(corpus, loaders, task, config["task"], facts, device)


def build_data(
    config: Config, trust: Collection[str] = (), splits: Collection[str] = SPLITS
) -> tuple[Corpus, dict[str, Loader]]:
    """The prepared corpus, and a loader for each of its splits; only that of "train" shuffles."""
    source = instantiate(config["data"], "data", trust=trust)
    tokenizer = instantiate(config["tokenizer"], "tokenizer", trust=trust)
    batch: Batching = instantiate(config["batch"], "batch", target=Batching)
    reading: Loading = instantiate(config["loader"], "loader", target=Loading)
    corpus = prepare(source, tokenizer, cache_folder())
    loaders = {}
    for split in splits:
        examples = Examples(corpus.splits[split], batch.max_length or batch.tokens, batch.over_long)
        workers, seed = (reading.workers, config["seed"]) if split == "train" else (0, None)
        loaders[split] = Loader(examples, batch.tokens, batch.pool, seed, workers, reading.prefetch)
    if batch.first_batches is not None:  # overfitting on purpose: judged on what it is trained on
        train = Loader(loaders["train"].examples, batch.tokens, batch.pool, config["seed"], 0, 2, batch.first_batches)
        loaders |= {"train": train, "validation": train}
    return corpus, loaders


def build_trainer(config: Config, experiment: Experiment, folder: RunFolder, log: RunLog) -> Trainer:
    """The trainer, handed its parts; whenever a new best model is saved, the bundle is written."""
    task, loaders = experiment.task, experiment.loaders

    def publish() -> None:
        bundle.save(folder.path / "bundle", experiment.specification, experiment.facts, experiment.bundle)

    return instantiate(
        config["trainer"],
        "trainer",
        target=Trainer,
        task=task,
        optimizer=instantiate(config["optimizer"], "optimizer", model=task.model),
        schedule=instantiate(config["schedule"], "schedule"),
        train=loaders["train"],
        validation=loaders["validation"],
        checkpoints=instantiate(config["checkpoints"], "checkpoints", target=Checkpoints, folder=folder.checkpoints),
        log=log,
        device=experiment.device,
        publish=publish,
    )


def choose_device(name: str) -> torch.device:
    """ "auto" is an accelerator where there is one.

    Raises:
        InputError: torch knows no such device, or has none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device={name} cannot be used: {reason}; choose device=cpu or device=auto") from error
    return device


def cache_folder() -> Path:
    """Where prepared corpora are kept: $SEQLAB_CACHE, or the user's cache folder."""
    return Path(os.environ.get("SEQLAB_CACHE") or Path.home() / ".cache" / "seqlab")
