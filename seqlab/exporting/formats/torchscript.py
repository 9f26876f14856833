"""TorchScript: the modules that train, compiled and not traced, loop and all, for any length.

model.ts loads where there is no seqlab: `torch.jit.load` in Python, `torch::jit::load` in C++ (docs/deploy.md). Its
methods are those of the signature in seqlab/exporting/adapters.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqlab.bundle import Bundle
from seqlab.exporting.adapters.lookup import adapter_of
from seqlab.exporting.parity import Exported
from seqlab.exporting.requirements import UnsuitedError, foreign
from seqlab.exporting.scripted import plain_functions, to_scriptable
from seqlab.layers.recurrent.contract import NestedState
from seqlab.storage.files import write_file

FILE = "model.ts"
METHODS = ("forward", "padded", "encode", "step")


def export_torchscript(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Writes model.ts, in which `about` travels as the extra file export.json, and loads it again.

    Raises:
        UnsuitedError: TorchScript cannot compile a module of the user's own.
    """
    adapter = adapter_of(bundle.task.model)
    script = scripted(adapter.signature())
    methods = [str(getattr(script, name).schema) for name in METHODS if hasattr(script, name)]
    methods = [re.sub(r"__torch__\S+ self(, )?", "", method) for method in methods]
    about = {**about, "methods": methods}
    buffer = io.BytesIO()  # so that the file is flushed as all files are
    with deprecated():
        torch.jit.save(script, buffer, _extra_files={"export.json": json.dumps(about, indent=2)})
        write_file(folder / FILE, buffer.getvalue())
        loaded = torch.jit.load(folder / FILE)
    calls = {"ragged": partial(adapter.call_ragged, loaded), "padded": partial(adapter.call_padded, loaded)}
    return Exported({FILE: {"methods": methods}}, calls)


@contextmanager
def deprecated() -> Iterator[None]:
    """Torch advises torch.export in place of TorchScript; but that has no loop over the steps of a sequence, and so
    TorchScript serves, in the versions that have it, and need not be warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """Compile a module, such as the signature of an adapter.

    Raises:
        UnsuitedError: a part of the user's own cannot be compiled; names its class and TorchScript's reason.
    """
    for part in module.modules():
        if isinstance(part, NestedState):
            raise UnsuitedError(
                f"{part.kind}, and TorchScript cannot know what a nesting holds: let initial_state and forward take "
                "and return list[Tensor], or set another format="
            )
    try:
        with deprecated(), plain_functions():
            return torch.jit.script(to_scriptable(module))
    except Exception as error:  # of many kinds, as TorchScript meets what it does not know
        if not (names := foreign(module)):
            raise
        raise UnsuitedError(
            f"TorchScript cannot compile {names}, so format=torchscript is not for this model:\n"
            f"{str(error).strip() or type(error).__name__}"
        ) from error
