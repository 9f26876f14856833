"""AOTInductor: the graphs of pt2.py as machine code, for `torch._inductor.aoti_load_package` or C++.

NAME.aoti.pt2 is for the processor it was compiled on; making it takes a compiler and minutes. AOTInductor is
experimental in torch. A package is machine code: load it only if you have made it, or know the digest in export.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seqlab.bundle import Bundle
from seqlab.exporting.adapters.tensors import Run
from seqlab.exporting.formats.pt2 import SHORTEST, calls, graphs, quiet, without_gradients
from seqlab.exporting.parity import Exported
from seqlab.exporting.requirements import UnsuitedError, reason
from seqlab.storage.files import sync_file


def export_aoti(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Compile an AOTInductor package for each program, and load them again.

    Raises:
        UnsuitedError: the model has no graph, or what torch makes of it cannot be compiled here.
    """
    runs: dict[str, Run] = {}
    signatures: dict[str, Any] = {}
    for program, graph in graphs(bundle):
        path = folder / f"{program.name}.aoti.pt2"
        with quiet():
            try:
                torch._inductor.aoti_compile_and_package(graph, package_path=str(path))
            except Exception as error:  # whatever a compiler of graphs, or one of C++, says
                raise UnsuitedError(
                    f"AOTInductor, which is experimental, cannot compile {program.name} here ({reason(error)}); it "
                    "wants a C++ compiler. Choose format=pt2 or format=torchscript"
                ) from error
            sync_file(path)
            runs[program.name] = without_gradients(torch._inductor.aoti_load_package(str(path)))
        signatures[path.name] = program.signature
    return Exported(signatures, calls(runs, bundle), SHORTEST)
