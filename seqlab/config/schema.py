"""What a configuration may hold, and whether it fits together; checked as a whole before anything is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from seqlab.config.instantiate import instantiate, mistakes
from seqlab.errors import InputError, require_positive
from seqlab.training.checkpoint import Checkpoints
from seqlab.training.limits import Limits
from seqlab.training.precision import Precision
from seqlab.training.trainer import Trainer

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """The top of the configuration."""

    name: str | None = None
    output_dir: str | None = None
    resume: str | None = None
    trust: str | list[str] | None = None
    seed: int = 1
    threads: int | None = None
    device: str = "auto"
    precision: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        _require(
            (self.seed >= 0, f"seed={self.seed}: expected 0 or more"),
            (self.threads is None or self.threads >= 1, f"threads={self.threads}: expected at least 1, or null"),
        )


@dataclass(frozen=True)
class Batching:
    """How examples are cut and put together; see `seqlab/data/examples.py` and `plan.py`."""

    tokens: int = 2048
    pool: int = 50
    max_length: int | None = None
    over_long: str | None = None
    first_batches: int | None = None
    streaming: bool = False
    learn_from: int = 10_000

    def __post_init__(self) -> None:
        longest, first = self.max_length, self.first_batches
        _require(
            (self.tokens >= 1, f"batch.tokens={self.tokens}: expected at least 1"),
            (self.pool >= 1, f"batch.pool={self.pool}: expected at least 1"),
            (longest is None or longest >= 1, f"batch.max_length={longest}: expected at least 1, or null"),
            (
                longest is None or longest <= self.tokens,
                f"batch.max_length={longest} cannot fit into batch.tokens={self.tokens}",
            ),
            (first is None or first >= 1, f"batch.first_batches={first}: expected at least 1, or null"),
            (self.learn_from >= 1, f"batch.learn_from={self.learn_from}: expected at least 1"),
        )


@dataclass(frozen=True)
class Loading:
    """How batches are read; see `seqlab/data/loader.py`."""

    workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        _require(
            (self.workers >= 0, f"loader.workers={self.workers}: expected 0 or more"),
            (self.prefetch >= 1, f"loader.prefetch={self.prefetch}: expected at least 1"),
        )


def _require(*claims: tuple[bool, str]) -> None:
    if wrong := [message for right, message in claims if not right]:
        raise InputError("\n".join(wrong))


TRAINER_PARTS = (
    "task", "optimizer", "schedule", "train", "validation", "checkpoints", "log", "throughput", "device", "publish",
)  # fmt: skip

# What a task and its model are built to; see `Vocabularies.build_context`.
CONTEXT = (
    "vocabulary", "target_vocabulary", "word_vocabulary", "labels", "label_names", "allowed", "lossless", "end",
    "written", "one_vocabulary",
)  # fmt: skip

# Each section of the configuration: the class it holds the arguments of (None where it names a `_target_`), and what is
# found out at run time and passed when that is built.
SECTIONS: dict[str, tuple[type | None, tuple[str, ...]]] = {
    "data": (None, ()),
    "form": (None, ()),
    "tokenizer": (None, ()),
    "batch": (Batching, ()),
    "loader": (Loading, ()),
    "task": (None, CONTEXT),
    "optimizer": (None, ("model",)),
    "schedule": (None, ()),
    "checkpoints": (Checkpoints, ("folder",)),
    "trainer": (Trainer, TRAINER_PARTS),
}


# What some of these are passed when they are made for once, to see what they have to say against their arguments.
STAND_INS: dict[str, dict[str, Any]] = {
    "optimizer": {"model": nn.Linear(1, 1, device="meta")},
    "checkpoints": {"folder": Path()},
}


def check(config: Config, trust: Collection[str] = ()) -> None:
    """Whether everything in the configuration has a place and a fitting type, before anything is read or written.

    Raises:
        InputError: with a line for each mistake.
    """
    top = {key: config[key] for key in Settings.__dataclass_fields__ if key in config}
    found = [line.replace("configuration.", "") for line in mistakes(top, "configuration", target=Settings)]
    for key, (target, context) in SECTIONS.items():
        found += mistakes(config[key], key, target=target, trust=trust, context=context)
    if not found:
        limits = {key: config["trainer"][key] for key in Limits.__dataclass_fields__}
        rhythm = {key: value for key, value in config["trainer"].items() if key not in limits}
        found += _refused(lambda: Settings(**top)) + _refused(lambda: Limits(**limits))
        found += _refused(lambda: require_positive("trainer", **rhythm))
        for key, (target, context) in SECTIONS.items():  # what is cheap to make knows what values it takes
            own_code = not str(config[key].get("_target_", "seqlab.")).startswith("seqlab.")
            if context and (key not in STAND_INS or own_code):
                continue
            found += _refused(
                partial(instantiate, config[key], key, target=target, trust=trust, **STAND_INS.get(key, {}))
            )
        found += _contradictions(config)
    if found:
        raise InputError(plainly("\n".join(_once(found))))


def _once(lines: Sequence[str]) -> list[str]:
    """Without those of arguments that conf/ copies from a section such as `form`, where that has the same mistake."""

    def original(line: str) -> str:
        return re.sub(r"\btask\.(?:model\.)?(?=answer\b|lanes\b)", "form.", line)

    return [line for line in dict.fromkeys(lines) if original(line) == line or original(line) not in lines]


def _refused(make: Callable[[], object]) -> list[str]:
    try:
        make()
    except InputError as error:
        return str(error).split("\n")
    return []


def _contradictions(config: Config) -> list[str]:
    """Settings that are each right and cannot be meant together."""
    batch, trainer, schedule = config["batch"], config["trainer"], config["schedule"]
    longest, micro, steps = batch["max_length"], trainer["micro_tokens"], trainer["max_steps"]
    warm_up = schedule.get("warmup_steps", 0)
    found = []
    if micro is not None and longest is not None and longest > micro:
        found.append(f"batch.max_length={longest} cannot fit into trainer.micro_tokens={micro}")
    if steps is not None and warm_up >= steps:
        found.append(
            f"schedule.warmup_steps={warm_up} would never end within trainer.max_steps={steps}: set "
            f"schedule.warmup_steps below {steps}; 0 is none"
        )
    if batch.get("streaming") and trainer["max_epochs"] is not None:
        found.append(
            f"batch.streaming=true does not know how long an epoch is, and trainer.max_epochs={trainer['max_epochs']} "
            "needs to: set trainer.max_epochs=null and trainer.max_steps or trainer.max_tokens"
        )
    if batch.get("streaming") and config["loader"]["workers"]:
        found.append(
            f"batch.streaming=true reads in one process: set loader.workers=0, not {config['loader']['workers']}"
        )
    return found


def for_people(config: Config) -> dict[str, Any]:
    """The configuration without the copy of the model that the task holds."""
    task = config["task"]
    model = {key: value for key, value in task.get("model", {}).items() if key != "encoder"}
    return {**config, "task": {**task, "model": model}}


def plainly(message: str) -> str:
    """The task holds a copy of the model; people change the original."""
    return message.replace("task.model.encoder", "model")
