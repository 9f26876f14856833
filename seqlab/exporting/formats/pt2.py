"""torch.export and AOTInductor: graphs of the programs of a model (programs.py), of any count and length.

    NAME.pt2         a graph of torch's operators, loops and all, for `torch.export.load`: Python with torch, no seqlab
    NAME.aoti.pt2    the same as machine code, for `torch._inductor.aoti_load_package` or C++; experimental in torch,
                     for the processor it was compiled on, and it takes a compiler and minutes

The former is loaded by `load_pt2` (pt2_loading.py), which runs nothing of the file. An AOTInductor package
is machine code: load it only if you have made it, or know the digest that export.json tells.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from seqlab.bundle import Bundle
from seqlab.exporting.asking import Run, calls
from seqlab.exporting.formats.pt2_loading import load_pt2
from seqlab.exporting.parity import Exported
from seqlab.exporting.programs import Program, programs
from seqlab.exporting.requirements import UnsuitedError, blaming, reason
from seqlab.storage.files import sync_file, write_file

SHORTEST = {"equal": 1}  # no graph has a block of width 0


def export_pt2(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Writes a .pt2 file for each program, in which `about` travels as the extra file export.json, and loads it again.

    Raises:
        UnsuitedError: the model has no graph.
    """
    runs: dict[str, Run] = {}
    signatures: dict[str, Any] = {}
    for program, graph in graphs(bundle):
        file, buffer = f"{program.name}.pt2", io.BytesIO()
        with quiet():
            told = {"export.json": json.dumps({**about, **program.signature})}
            torch.export.save(graph, buffer, extra_files=told)
            write_file(folder / file, buffer.getvalue())
            runs[program.name] = _without_gradients(load_pt2(folder / file).module())
        signatures[file] = program.signature
    return Exported(signatures, calls(runs, bundle.task.model), SHORTEST)


def export_aoti(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Compiles an AOTInductor package for each program, and loads them again.

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
            runs[program.name] = _without_gradients(torch._inductor.aoti_load_package(str(path)))
        signatures[path.name] = program.signature
    return Exported(signatures, calls(runs, bundle.task.model), SHORTEST)


def graphs(bundle: Bundle, padded_only: bool = False) -> Iterator[tuple[Program, ExportedProgram]]:
    """The programs of a model, each with its graph.

    Raises:
        UnsuitedError: the model has no graph, or a module of the user's own cannot stand in one.
    """
    for program in programs(bundle.task.model):
        if padded_only and program.name == "equal":
            continue
        with (
            quiet(),
            torch.no_grad(),
            blaming(program.module, f"torch.export cannot make a graph of {program.name}"),
        ):
            graph = torch.export.export(program.module, program.example, dynamic_shapes=program.dynamic_shapes)
        yield program, graph


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn about what they themselves do, and log what they do not find."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _without_gradients(run: Any) -> Run:
    def call(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # where gradients are recorded, a step of a loop takes twenty times as long
            return list(run(*tensors))

    return call
