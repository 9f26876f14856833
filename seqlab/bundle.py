"""The bundle: the folder a trained model travels in. Written by training, read by serving.

    model.json         task with its model, and form: seqlab's own parts by their dotted names, the user's as
                       module:Class; how long texts were cut; digests of the rest
    model.safetensors  the weights, each storage once
    tokenizer.json     and, where the task has them, target_tokenizer.json, labels.json, words.json
    README.md          for whoever finds the folder

Nothing in it is executable: no pickle, and a part that is not seqlab's own is refused unless the caller trusts its
module by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from seqlab.config.instantiate import instantiate, names_part
from seqlab.data.preprocessing.preprocessor import Preprocessor
from seqlab.errors import InputError
from seqlab.storage.files import read_plain
from seqlab.storage.folders import new_folder, replaced
from seqlab.storage.manifests import digest, read_verified
from seqlab.tasks.task import Task
from seqlab.text.vocabularies import FILES as VOCABULARY_FILES
from seqlab.text.vocabularies import Vocabularies

FORMAT_VERSION = 3

# All that a bundle may consist of, besides model.json.
FILES = ("model.safetensors", *VOCABULARY_FILES, "README.md")

# The packages whose parts (`config.instantiate.PARTS`) a bundle may name.
PACKAGES = ("seqlab.layers", "seqlab.models", "seqlab.tasks", "seqlab.text", "seqlab.data.preprocessing")


@dataclass(frozen=True)
class Bundle:
    """A trained model, ready to use.

    max_length, over_long   the most tokens of an example in training, and what became of longer ones (`Examples`)
    longest                 the most tokens that an example of training does have, read or written
    fields                  what the records of training had, such as ("text", "pair", "label"); () if nobody knows
    """

    task: Task
    preprocessor: Preprocessor
    vocabularies: Vocabularies
    max_length: int | None = None
    over_long: str | None = None
    longest: int | None = None
    fields: tuple[str, ...] = ()


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each under its first name: a tied weight is listed, and stored, once."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def stored(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors; copies, because views into shared memory are refused."""
    return safetensors.torch.save(
        {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    )


def save(folder: Path, specification: Mapping[str, Any], bundle: Bundle) -> None:
    """Write the bundle whole, in place of the one that was there.

    Args:
        folder: where; its parent exists.
        specification: the nodes "task", with its model, and "form", that these were built from.
        bundle: the task, with the weights to keep, and what goes with it.
    """
    content = {
        "model.safetensors": stored(distinct_tensors(bundle.task.model)),
        **bundle.vocabularies.files,
        "README.md": _README.encode(),
    }
    description = {
        "format_version": FORMAT_VERSION,
        "task": _named(specification["task"]),
        "form": _named(specification["form"]),
        "end_tokens": bundle.vocabularies.end_tokens,
        "max_length": bundle.max_length,
        "over_long": bundle.over_long,
        "longest": bundle.longest,
        "fields": list(bundle.fields),
        "sha256": {name: digest(data) for name, data in content.items()},
    }
    content["model.json"] = json.dumps(description, indent=2).encode()
    with new_folder(folder) as beside:
        for name, data in content.items():
            (beside / name).write_bytes(data)


def find(path: Path | str) -> Path:
    """The bundle at a path, or in the run folder there.

    Raises:
        InputError: there is none.
    """
    bundle = Path(path, "bundle")
    for folder in (bundle, replaced(bundle), Path(path)):  # the second: a save was cut short
        if (folder / "model.json").is_file():
            return folder
    if not Path(path).exists():
        raise InputError(f"run={path} is not there, seen from {Path.cwd()}")
    raise InputError(f"run={path}: {_instead(Path(path))}")


def _instead(path: Path) -> str:
    """What a folder is that is neither a bundle nor a run, and what to do."""
    if (path / "export.json").is_file():
        return "this is an export, which runs without seqlab (docs/deploy.md); give the run that it was made of"
    summaries = [*path.glob("*/summary.json"), *path.glob("*/*/summary.json")]  # of runs/NAME, and of runs
    finished = [summary for summary in summaries if (summary.parent / "bundle").is_dir()]
    if not finished:
        return "no bundle there; expected a run folder with bundle/ in it, or a bundle"
    newest = max(finished, key=lambda summary: summary.stat().st_mtime).parent
    return f"this is a folder of runs; the newest that has finished is run={newest}"


def load(path: Path | str, trust: Collection[str] = ()) -> Bundle:
    """From a bundle, or from the run folder that holds one. The model is in evaluation mode.

    Args:
        path: the folder.
        trust: modules of the user's own whose classes the bundle may name.

    Raises:
        InputError: there is no bundle, a file of it is missing or damaged, or it names code that is not trusted.
    """
    folder = find(path)
    try:
        description = json.loads(read_plain(folder / "model.json"))
        version = description["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"the bundle {folder} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"the bundle {folder} has format {version!r}, and this seqlab reads format {FORMAT_VERSION}: use the "
            "seqlab that wrote it, or train the model again"
        )
    try:
        task_node, form_node, end_tokens = (description[key] for key in ("task", "form", "end_tokens"))
        digests = description["sha256"]
        if strange := [name for name in (*digests, *end_tokens) if name not in FILES]:
            raise ValueError(f"it has no place for a file {strange[0]!r}")
        if unlisted := [name for name in FILES if name not in digests and os.path.lexists(folder / name)]:
            raise ValueError(f"{unlisted[0]} does not belong to it")
        files = read_verified(folder, digests)
        weights = safetensors.torch.load(files.pop("model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f"the bundle {folder} is damaged: {error}") from error
    known = Vocabularies.from_files(files, end_tokens, folder)
    preprocessor = instantiate(_resolved(form_node, trust, folder), "form", trust=trust)
    specification, sizes = _resolved(task_node, trust, folder), build_context(preprocessor, known)
    shapes = {name: weight.shape for name, weight in weights.items()}
    if not trust:  # what is described may be too large to be made; the user's own code need not know this device
        with torch.device("meta"):
            _require_shapes(build(specification, sizes), shapes, folder)
    task = build(specification, sizes, trust)
    _require_shapes(task, shapes, folder)
    for name, tensor in distinct_tensors(task.model).items():
        tensor.data.copy_(weights[name])
    task.model.eval()
    limits = {name: description.get(name) for name in ("max_length", "over_long", "longest")}
    return Bundle(task, preprocessor, known, **limits, fields=tuple(description.get("fields", ())))


def _require_shapes(task: Task, shapes: Mapping[str, torch.Size], folder: Path) -> None:
    if {name: tensor.shape for name, tensor in distinct_tensors(task.model).items()} != shapes:
        raise InputError(f"the bundle {folder} is damaged: its weights do not fit the model it describes")


def build_context(preprocessor: Preprocessor, vocabularies: Vocabularies) -> dict[str, Any]:
    """What a task and its model are built to."""
    found = vocabularies.build_context
    # Tags that are as somebody wrote them may follow one another in any way.
    return found if preprocessor.converts_tags else {**found, "allowed": None}


def build(specification: Mapping[str, Any], context: Mapping[str, Any], trust: Collection[str] = ()) -> Task:
    """The task with its model, in training and from a bundle alike.

    Raises:
        InputError: the specification is wrong; one line for each mistake.
    """
    return instantiate(specification, "task", trust=trust, **context)


def _named(node: Any) -> Any:
    """Return a specification with every `_target_` as `part`: without "seqlab.", or, of the user's, as module:Class."""
    if isinstance(node, Mapping):
        names = {"part" if key == "_target_" else key: _named(value) for key, value in node.items()}
        if "part" in names:
            module, _, name = str(names["part"]).rpartition(".")
            ours = module.startswith("seqlab.")
            names["part"] = f"{module.removeprefix('seqlab.')}.{name}" if ours else f"{module}:{name}"
        return names
    return [_named(item) for item in node] if isinstance(node, list | tuple) else node


def _resolved(node: Any, trust: Iterable[str], folder: Path) -> Any:
    """Return the specification that `_named` was given, with parts of `PACKAGES` and of trusted modules alone.

    Raises:
        InputError: it names another part, or holds a `_target_`.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            raise InputError(f"the bundle {folder} is damaged: it holds a _target_")
        plain = {key: _resolved(value, trust, folder) for key, value in node.items() if key != "part"}
        if "part" not in node:
            return plain
        part = str(node["part"])
        module, colon, _ = part.partition(":")
        if colon:
            if module not in trust:
                raise InputError(
                    f"the bundle {folder} uses code that is not seqlab's own, {part}; if you trust it, add "
                    f"trust={module}"
                )
            return {"_target_": part.replace(":", "."), **plain}
        if not names_part(f"seqlab.{part}", PACKAGES):
            raise InputError(f"the bundle {folder} is damaged: it names a part that is not seqlab's own, {part!r}")
        return {"_target_": f"seqlab.{part}", **plain}
    return [_resolved(item, trust, folder) for item in node] if isinstance(node, list) else node


_README = """# A model trained with seqlab

`model.json` describes the architecture, `model.safetensors` holds the weights, the other files the vocabularies.

    python -m seqlab.predict run=THIS_FOLDER input=prompts.jsonl
    python -m seqlab.evaluate run=THIS_FOLDER data=text data.path=FILE

Nothing here is executable. A part written as `module:Class` is code of the trainer's own and is loaded only with
`trust=module`.
"""
