"""Bundles that somebody has changed who can count digests: pickles, parts and names that must not be heeded."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

PARTS = [
    "pathlib:Path.touch", "os:system", "subprocess:run", "builtins:eval", "seqlab.bundle:os.system", "seqlab:load",
    "seqlab.data.corpus:os.system", "seqlab.config.instantiate:instantiate", "torch:load", "torch.nn:Module",
    "pickle:loads",
    "my_module:MyCell", "functools:partial", "..:x", "", "os.system",
    # Names inside seqlab: of functions, of what its modules import, and of classes that are no parts of a model.
    "layers.native.compiler.built", "layers.native.compiler.private_folder", "layers.native.compiler.subprocess.run",
    "layers.recurrent.cells.torch.nn.Linear", "layers.recurrent.cells.LSTMCell.forward", "layers.crf.IGNORED",
    "models.decoding.generate", "models.decoding.Running", "models.sampling.Sampling", "text.tokenizer.Tokenizer",
    "text.vocabularies.Vocabularies", "tasks.task.Task", "tasks.task.StepOutput", "tasks.metrics.metric.Metric",
    "data.preprocessing.preprocessor.Preprocessor", "data.preprocessing.preprocessor.pa.table", "data.corpus.prepare",
    "data.sources.text.TextFiles", "data.records.Columns", "training.optimizers.adamw", "training.schedules.Cosine",
    "training.checkpoint.Checkpoints", "training.logging.json_lines.MetricsLog", "config.instantiate.instantiate",
    "config.schema.Settings", "cli.command.run_verb", "storage.files.replace_file", "storage.files.remove",
    "inference.predictor.load", "server.service.Service", "exporting.formats.pt2_loading.load_pt2", "bundle.load",
    "bundle.Bundle", "experiment.build", "errors.InputError", "LSTMCell", "seqlab.layers.recurrent.cells.LSTMCell",
    "layers", "layers.", ".layers.recurrent.cells.LSTMCell", "layers..recurrent.cells.LSTMCell",
]  # fmt: skip
NAMES = [
    "../secret", "../../root/secret", "/etc/passwd", "/dev/zero", "..\\secret", "%2e%2e%2fsecret", "a/../../secret",
    "\0", "secret\0.json", ".", "", "//etc/passwd", "~/secret", "model.safetensors/", "./model.safetensors",
    "/proc/self/environ", "....//secret", "C:\\secret", "file:///etc/passwd", "%252e%252e%252fsecret",
]  # fmt: skip


def put(folder: Path, name: str, content: bytes) -> None:
    """A file, with the digest that belongs to it: an attacker can count."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    change(folder, lambda described: described["sha256"].update({name: hashlib.sha256(content).hexdigest()}))


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    described = json.loads((folder / "model.json").read_text())
    how(described)
    (folder / "model.json").write_text(json.dumps(described))


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def pickles(canary: Path) -> Iterator[bytes]:
    for protocol in (0, 2, 4):
        yield pickle.dumps(Payload(canary), protocol)
    file = canary.with_name("saved.pt")
    for zipped in (True, False):
        torch.save(Payload(canary), file, _use_new_zipfile_serialization=zipped)
        yield file.read_bytes()
    shutil.make_archive(str(canary.with_name("archive")), "tar", canary.parent, "saved.pt")
    yield canary.with_name("archive.tar").read_bytes()
