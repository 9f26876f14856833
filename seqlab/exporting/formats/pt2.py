"""torch.export: graphs of the programs of a model, of any count and length.

NAME.pt2 holds a graph of torch's operators, loops and all, for Python with torch and without seqlab. `load_pt2`
(pt2_loading.py) loads it, and runs nothing of the file.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from seqlab.bundle import Bundle
from seqlab.exporting.adapters.lookup import adapter_of
from seqlab.exporting.adapters.tensors import Run
from seqlab.exporting.formats.pt2_loading import load_pt2
from seqlab.exporting.padded import PaddedRecurrence, to_padded
from seqlab.exporting.parity import Call, Exported
from seqlab.exporting.programs import Program
from seqlab.exporting.requirements import blaming
from seqlab.layers.recurrent.stack import Recurrence
from seqlab.storage.files import write_file

SHORTEST = {"equal": 1}  # no graph has a block of width 0


def export_pt2(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Write a .pt2 file for each program, in which `about` travels as the extra file export.json, and load it again.

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
            runs[program.name] = without_gradients(load_pt2(folder / file).module())
        signatures[file] = program.signature
    return Exported(signatures, calls(runs, bundle), SHORTEST)


def graphs(
    bundle: Bundle, recurrence: type[Recurrence] = PaddedRecurrence, dense: bool = True
) -> Iterator[tuple[Program, ExportedProgram]]:
    """Yield the programs of a model, each with its graph.

    Args:
        recurrence: what a recurrence is in the graph; see `to_padded`.
        dense: whether to include the program of sequences of equal length.

    Raises:
        UnsuitedError: the model has no graph, or a module of the user's own cannot stand in one.
    """
    for program in adapter_of(to_padded(bundle.task.model, recurrence)).programs():
        if program.name == "equal" and not dense:
            continue
        with (
            quiet(),
            torch.no_grad(),
            blaming(program.module, f"torch.export cannot make a graph of {program.name}"),
        ):
            graph = torch.export.export(program.module, program.example, dynamic_shapes=program.dynamic_shapes)
        yield program, graph


def calls(runs: dict[str, Run], bundle: Bundle) -> dict[str, Call]:
    """Return how a batch is put to loaded programs, by the name of the signature that parity.json shows."""
    adapter = adapter_of(bundle.task.model)
    equal: dict[str, Call] = {"equal": partial(adapter.call_equal, runs["equal"])} if "equal" in runs else {}
    return {**equal, "padded": partial(adapter.call_programs, runs)}


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


def without_gradients(run: Any) -> Run:
    """Call a program without recording gradients."""

    def call(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():  # where gradients are recorded, a step of a loop takes twenty times as long
            return list(run(*tensors))

    return call
