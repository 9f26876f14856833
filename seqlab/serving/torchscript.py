"""TorchScript: the trained modules, compiled as they stand (not traced), loop and all, for any length.

model.ts loads where there is no seqlab: `torch.jit.load` in Python, `torch::jit::load` in C++ (docs/deploy.md). Its
methods are those of seqlab/serving/signatures.py.
"""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.durable import write_file
from seqlab.errors import InputError
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import Ragged
from seqlab.serving.parity import Exported, Outputs, in_parts, starts_of
from seqlab.serving.signatures import signature

FILE = "model.ts"
TORCH_BEYOND, PYTHON_BEYOND = (2, 14), (3, 14)  # deprecated since 2.10; nobody has tried it further
METHODS = ("forward", "padded", "encode", "step")


def export_torchscript(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Writes model.ts, in which `about` travels as the extra file export.json, and loads it again.

    Raises:
        InputError: this torch or Python is too new, or TorchScript cannot compile a module of the user's own.
    """
    require_versions()
    model = bundle.task.model
    script = scripted(signature(model))
    methods = [str(getattr(script, name).schema) for name in METHODS if hasattr(script, name)]
    about = {**about, "methods": [re.sub(r"__torch__\S+ self(, )?", "", method) for method in methods]}
    buffer = io.BytesIO()  # so that the file is flushed as all files are
    with deprecated():
        torch.jit.save(script, buffer, _extra_files={"export.json": json.dumps(about, indent=2)})
        write_file(folder / FILE, buffer.getvalue())
        loaded = torch.jit.load(folder / FILE)
    calls = {"ragged": lambda batch: ragged(loaded, model, batch), "padded": lambda batch: padded(loaded, model, batch)}
    return Exported((FILE,), calls)


def require_versions() -> None:
    """Whether TorchScript is there and tried.

    Raises:
        InputError: it is not.
    """
    if torch.__version__ >= TORCH_BEYOND or sys.version_info >= PYTHON_BEYOND:  # type: ignore[operator]
        torch_version, python = torch.__version__, ".".join(map(str, sys.version_info[:3]))
        raise InputError(
            "format=torchscript needs torch below 2.14 and Python below 3.14, for torch gives TorchScript up; here are "
            f"torch {torch_version} and Python {python}: choose format=pt2 or format=onnx"
        )


@contextmanager
def deprecated() -> Iterator[None]:
    """Torch advises torch.export in place of TorchScript; but that has no loop over the steps of a sequence, and so
    TorchScript serves, in the versions that have it, and need not be warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """The module, compiled.

    Raises:
        InputError: some part of it cannot be; names its class and TorchScript's reason.
    """
    try:
        with deprecated():
            return torch.jit.script(module)
    except Exception as error:  # of many kinds, as TorchScript meets what it does not know
        raise InputError(
            f"TorchScript cannot compile {_culprit(module)}, so format=torchscript is not for this model:\n"
            f"{str(error).strip()}"
        ) from error


def _culprit(module: nn.Module) -> str:
    """The classes of the user's own among its parts; where there are none, its own."""
    strange = [type(part) for part in module.modules() if not type(part).__module__.startswith(("seqlab.", "torch."))]
    names = dict.fromkeys(f"{kind.__module__}.{kind.__qualname__}" for kind in strange)
    return " or ".join(names) or type(module).__name__


# ------------------------------------------------------------------------- how a batch is put to what was exported


def ragged(script: Any, model: nn.Module, batch: Batch) -> Outputs:
    """The answers of the ragged signature, as `parity.expected` orders them."""
    given = (batch.tokens.values, batch.tokens.offsets)
    match model:
        case Classifier():
            return {"answers": script(*given)}
        case Tagger():
            words = batch.extras.get("words")
            labels, probabilities = script(*given, starts_of(batch), None if words is None else words.values)
            return {"labels": labels, "probabilities": probabilities}
        case MaskedLanguageModel():
            return {"scores": script(*given)}
        case LanguageModel():
            return {"scores": _written(batch.tokens, script, [])}
        case Seq2Seq():
            return _targets(script, batch, *script.encode(*given))
    raise ValueError(f"{type(model).__name__} has no signature")


def padded(script: Any, model: nn.Module, batch: Batch) -> Outputs:
    """The answers of the padded signature, likewise. Padding is a token that there is not."""
    lengths = batch.tokens.lengths
    mask = torch.arange(batch.tokens.layout.longest) < lengths.unsqueeze(1)
    given = (batch.tokens.to_padded(-1), mask)
    match model:
        case Classifier():
            return {"answers": script.padded(*given)}
        case Tagger():
            starts, words = batch.tokens.with_values(starts_of(batch)).to_padded(1), batch.extras.get("words")
            begins = mask & (starts != 0)
            placed = None
            if words is not None:
                placed = torch.full_like(given[0], -1).masked_scatter(begins, words.values)
            labels, probabilities = script.padded(*given, starts, placed)
            return {"labels": labels[begins], "probabilities": probabilities[begins]}
        case MaskedLanguageModel():
            return {"scores": script.padded(*given)[mask]}
        case LanguageModel():
            return {"scores": script.padded(*given)[lengths > 0]}
        case Seq2Seq():
            return _targets(script, batch, *script.padded(*given))
    raise ValueError(f"{type(model).__name__} has no signature")


def _targets(script: Any, batch: Batch, memory: list[Tensor], state: list[Tensor]) -> Outputs:
    scores = _written(batch.extras["prefix"], lambda *part: script.step(*part[:2], memory, part[2]), state)
    return {"scores": scores}


def _written(texts: Ragged, step: Any, state: list[Tensor]) -> Tensor:
    """The scores after the last token of every text that has one."""
    scores = torch.zeros(0)
    for part in in_parts(texts):
        scores, state = step(part.values, part.offsets, state)
    return scores[texts.lengths > 0]
