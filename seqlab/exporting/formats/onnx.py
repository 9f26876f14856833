"""ONNX: the padded programs of a model, for onnxruntime and whatever else reads ONNX.

Recurrences are ONNX's own operators LSTM, GRU and RNN, not loops over steps. NAME.onnx is named by the program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqlab.bundle import Bundle
from seqlab.exporting.adapters.tensors import Run
from seqlab.exporting.formats.onnx_operators import recur
from seqlab.exporting.formats.pt2 import calls, graphs, quiet
from seqlab.exporting.parity import Exported
from seqlab.exporting.requirements import blaming
from seqlab.layers.recurrent.stack import Recurrence
from seqlab.storage.files import write_file

OPSET = 18  # of 2022: the oldest that has all that is needed, for as many runtimes as can be


class OnnxRecurrence(Recurrence):
    """A recurrence as one operator of ONNX."""

    def forward(self, x_NLD: Tensor, lengths: Tensor | None, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return recur(self.cell, x_NLD, lengths, state, self.reverse)


def export_onnx(bundle: Bundle, about: Mapping[str, Any], folder: Path) -> Exported:
    """Write a .onnx file for each program, in whose metadata `about` travels, and load it by onnxruntime.

    Raises:
        UnsuitedError: ONNX has no operator for a part of the model.
    """
    import onnxruntime

    runs: dict[str, Run] = {}
    signatures: dict[str, Any] = {}
    for program, graph in graphs(bundle, OnnxRecurrence, dense=False):
        with quiet(), blaming(program.module, f"torch.onnx.export cannot translate {program.name}"):
            exported = torch.onnx.export(
                graph,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=program.input_names,
                output_names=program.outputs,
                dynamic_shapes=program.dynamic_shapes,  # of a graph that has its own, the names alone
                custom_translation_table={torch.ops.seqlab.recurrence.default: _recurrence},
            )
        assert exported is not None
        exported.model.metadata_props.update({"seqlab": json.dumps(about)})
        file = folder / f"{program.name}.onnx"
        write_file(file, exported.model_proto.SerializeToString())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        runs[program.name] = _run(session)
        signatures[file.name] = program.signature
    return Exported(signatures, calls(runs, bundle))


def _run(session: Any) -> Run:
    names = [given.name for given in session.get_inputs()]

    def call(*tensors: Tensor) -> list[Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return call


def _recurrence(
    kind: str,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias: Any,
    lengths: Any,
    h: Any,
    c: Any,
    reverse: bool,
) -> tuple[Any, Any, Any]:
    """Translate `seqlab::recurrence` (onnx_operators.py) to the operators it stands for; ONNX reads step by
    step, and has an axis of directions."""
    import onnxscript

    op: Any = getattr(onnxscript, f"opset{OPSET}")
    int32 = 6
    steps = None if lengths is None else op.Cast(lengths, to=int32)
    weights = [op.Unsqueeze(each, [0]) for each in (weight_ih, weight_hh, bias)]
    given = [op.Transpose(x, perm=[1, 0, 2]), *weights, steps, op.Unsqueeze(h, [0])]
    options: dict[str, Any] = {"direction": "reverse" if reverse else "forward", "hidden_size": weight_hh.shape[1]}
    if kind == "GRU":
        y, h = op.GRU(*given, linear_before_reset=1, **options)
    elif kind == "RNN":
        y, h = op.RNN(*given, **options)
    else:
        if kind == "linear":
            options |= {"activations": ["Affine"] * 3, "activation_alpha": [1.0] * 3, "activation_beta": [0.0] * 3}
        y, h, c = op.LSTM(*given, op.Unsqueeze(c, [0]), **options)
        c = op.Squeeze(c, [0])
    return op.Transpose(op.Squeeze(y, [1]), perm=[1, 0, 2]), op.Squeeze(h, [0]), c
