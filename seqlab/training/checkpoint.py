"""Checkpoints: folders that are whole or not there, and whose every byte is checked before it is believed.

    checkpoints/step-000000100/   model.safetensors      the weights, each storage once
                                  optimizer.safetensors  its tensors, named "<parameter>.<entry>"
                                  rng.safetensors        the random state of the host and of every CUDA device
                                  state.json             `State`, and the optimizer's scalars
                                  carried.safetensors    what the task carries from batch to batch, where it does
                                  manifest.json          size and SHA-256 of these, and a digest of itself
    checkpoints/last, best        relative links, for people

A save that is killed at any moment leaves either the old checkpoints, or the old ones and the new one
(`seqlab/storage/folders.py`). Nothing is pickled, so nothing that is read can run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from seqlab.bundle import distinct_tensors, stored
from seqlab.errors import CheckpointError, InputError
from seqlab.storage.files import replace_link
from seqlab.storage.folders import new_folder, recover_all, remove_folder
from seqlab.storage.manifests import FILE as MANIFEST
from seqlab.storage.manifests import digest, read_manifest, read_verified, write_manifest
from seqlab.training.state import State

FORMAT_VERSION = 2
FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")
CARRIED = "carried.safetensors"
_STEPS = "step-*"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's folder holds, verified."""

    folder: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    scalars: dict[str, dict[str, Any]]
    rng: dict[str, Tensor]
    carried_state: dict[str, Tensor]
    state: State

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read a checkpoint. Raise `CheckpointError`, with file and reason, if it is damaged or of another format."""
        try:
            digests = read_manifest(folder)
            if not set(FILES) <= set(digests) <= {*FILES, CARRIED}:
                raise ValueError(f"{MANIFEST}: its files are not those of a checkpoint")
            content = read_verified(folder, digests)
            stored = json.loads(content["state.json"])
            if stored["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"its format is {stored['format_version']!r}, and this seqlab reads format {FORMAT_VERSION}: "
                    "continue the run with the seqlab that began it, or begin a new run"
                )
            state = State.from_json(stored["state"])
            model, optimizer, rng = (safetensors.torch.load(content[name]) for name in FILES[:3])
            carried_state = safetensors.torch.load(content[CARRIED]) if CARRIED in content else {}
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: {error}") from error
        return cls(folder, model, optimizer, stored["optimizer"], rng, carried_state, state)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, carried_state: dict[str, Tensor] | None = None
    ) -> State:
        """Weights, optimizer and random state become those of the checkpoint, bit for bit; returns its `State`.

        The state that the task carries from batch to batch is put into `carried_state`.
        Hyper-parameters (learning rate, betas, ...) stay those that the optimizer was built with.
        """
        self.restore_model(model)
        names = _parameter_names(model, optimizer)
        entries = {name: dict(values) for name, values in self.scalars.items()}
        for key, tensor in self.optimizer.items():
            name, _, entry = key.rpartition(".")
            entries.setdefault(name, {})[entry] = tensor
        if unknown := sorted(set(entries) - set(names)):
            raise InputError(f"{self.folder}: the optimizer does not train {', '.join(unknown)}, as the saved one does")
        stored = {i: entries[name] for i, name in enumerate(names) if name in entries}
        optimizer.load_state_dict({"state": stored, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(self.rng["cpu"])
        for device, random_state in self.rng.items():
            if device != "cpu" and torch.cuda.is_available():
                torch.cuda.set_rng_state(random_state, device)
        if carried_state is not None:
            carried_state.clear()
            carried_state.update(self.carried_state)
        return self.state

    def restore_model(self, model: nn.Module) -> None:
        """The weights alone.

        Raises:
            InputError: the model is not the one that was saved: a name, shape or number format differs.
        """
        weights = distinct_tensors(model)
        saved, given = _described(self.model), _described(weights)
        if differing := [name for name in {**saved, **given} if saved.get(name) != given.get(name)]:
            lines = [f"{name}: saved {saved.get(name)}, now {given.get(name)}" for name in differing]
            raise InputError(f"{self.folder} holds another model than the one configured:\n  " + "\n  ".join(lines))
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(self.model[name])


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: made at the first save.
        keep: how many of the newest to keep; the best one is kept besides.
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"checkpoints.keep={keep}: at least 1 checkpoint must be kept")
        self.folder = Path(folder)
        self.keep = keep

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, carried_state: Mapping[str, Tensor] = {}
    ) -> Path:
        """Writes the checkpoint of this step, points `last` and `best` to where they belong, drops what is old.

        Args:
            carried_state: see `Task.carried_state`.

        Raises:
            OSError: it could not be written; everything that was there before still is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        recover_all(self.folder, _STEPS)
        final = self.folder / _name(state.step)
        with new_folder(final) as beside:  # `final` is there after an evaluation that a signal had cut short
            _write(beside, model, optimizer, state, carried_state)
        self._link(state)
        self._retain(state)
        return final

    def load_latest(self) -> Checkpoint | None:
        """The newest valid checkpoint; a damaged one is passed over with a warning. None where there has been no save.

        Raises:
            CheckpointError: there are checkpoints and none is valid.
        """
        recover_all(self.folder, _STEPS)
        damaged = []
        for path in self._newest_first():
            try:
                checkpoint = Checkpoint.read(path)
            except CheckpointError as error:
                logger.warning("damaged checkpoint passed over: %s", error)
                damaged.append(str(error))
                continue
            self._link(checkpoint.state)
            return checkpoint
        if damaged:
            raise CheckpointError("no valid checkpoint to continue from:\n  " + "\n  ".join(damaged))
        return None

    def load_best(self) -> Checkpoint:
        """The checkpoint of the best evaluation.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        if not (self.folder / "best").exists():
            raise CheckpointError(
                f"{self.folder}: no checkpoint is marked best: no evaluation was saved, or "
                "the metric that decides (task.monitor) was never a number"
            )
        return Checkpoint.read((self.folder / "best").resolve())

    def _newest_first(self) -> list[Path]:
        ours = [path for path in self.folder.glob(_STEPS) if _digits(path).isdecimal()]
        return sorted(ours, key=lambda path: int(_digits(path)), reverse=True)

    def _link(self, state: State) -> None:
        """`last` and `best` follow from the state: also a save that was killed before its links is put right."""
        replace_link(self.folder / "last", _name(state.step))
        if state.best is not None and (self.folder / _name(state.best_step)).exists():
            replace_link(self.folder / "best", _name(state.best_step))

    def _retain(self, state: State) -> None:
        """Drops all but the newest and the best. Steps beyond this one were damaged, or we had continued there."""
        past = [path for path in self._newest_first() if int(_digits(path)) <= state.step]
        kept = {path.name for path in past[: self.keep]} | {(self.folder / "best").resolve().name}
        for path in self._newest_first():
            if path.name not in kept:
                remove_folder(path)


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _digits(path: Path) -> str:
    return path.name.removeprefix("step-")


def _described(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for name, tensor in tensors.items()}


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The name of each parameter, in the order in which an optimizer's `state_dict` numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _write(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, carried_state: Mapping[str, Tensor]
) -> None:
    """Write all files of a checkpoint."""
    names = _parameter_names(model, optimizer)
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for i, entries in optimizer.state_dict()["state"].items():
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{names[i]}.{entry}"] = value
            else:
                scalars.setdefault(names[i], {})[entry] = value
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        rng |= {f"cuda:{i}": random_state for i, random_state in enumerate(torch.cuda.get_rng_state_all())}
    description = {"format_version": FORMAT_VERSION, "state": state.to_json(), "optimizer": scalars}
    content = {
        "model.safetensors": stored(distinct_tensors(model)),
        "optimizer.safetensors": stored(tensors),
        "rng.safetensors": stored(rng),
        "state.json": json.dumps(description, indent=1).encode(),
        **({CARRIED: stored(carried_state)} if carried_state else {}),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    write_manifest(folder, {name: digest(data) for name, data in content.items()})
