"""TorchScript: the trained modules, compiled as they stand (not traced), loop and all, for any length.

model.ts loads where there is no seqlab: `torch.jit.load` in Python, `torch::jit::load` in C++ (docs/deploy.md). Its
methods are those of seqlab/exporting/signatures.py.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.exporting.parity import Exported, Outputs, in_parts, starts_of
from seqlab.exporting.requirements import UnsuitedError, foreign
from seqlab.exporting.signatures import signature
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import Ragged
from seqlab.storage.files import write_file

FILE = "model.ts"
METHODS = ("forward", "padded", "encode", "step")


def export_torchscript(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Writes model.ts, in which `about` travels as the extra file export.json, and loads it again.

    Raises:
        UnsuitedError: TorchScript cannot compile a module of the user's own.
    """
    model = bundle.task.model
    script = scripted(signature(model))
    methods = [str(getattr(script, name).schema) for name in METHODS if hasattr(script, name)]
    methods = [re.sub(r"__torch__\S+ self(, )?", "", method) for method in methods]
    about = {**about, "methods": methods}
    buffer = io.BytesIO()  # so that the file is flushed as all files are
    with deprecated():
        torch.jit.save(script, buffer, _extra_files={"export.json": json.dumps(about, indent=2)})
        write_file(folder / FILE, buffer.getvalue())
        loaded = torch.jit.load(folder / FILE)
    calls = {"ragged": lambda batch: ragged(loaded, model, batch), "padded": lambda batch: padded(loaded, model, batch)}
    return Exported({FILE: {"methods": methods}}, calls)


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
        UnsuitedError: a part of the user's own cannot be; names its class and TorchScript's reason.
    """
    try:
        with deprecated():
            return torch.jit.script(module)
    except Exception as error:  # of many kinds, as TorchScript meets what it does not know
        if not (names := foreign(module)):
            raise
        raise UnsuitedError(
            f"TorchScript cannot compile {names}, so format=torchscript is not for this model:\n"
            f"{str(error).strip() or type(error).__name__}"
        ) from error


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
