"""A .pt2 file of an export, loaded without running anything that stands in it.

`torch.export.load` trusts its file: it unpickles what the file says is pickled, evaluates the sizes and conditions that
stand in the graph as text, and looks the operators up in all of torch. `load_pt2` hands it a file that has none of what
the exports of seqlab do not have. It needs torch alone and may be copied to where an exported model runs.

A graph that passes is still a program of torch's operators: it answers what it likes and takes what memory and time it
likes.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

_MEMBERS = re.compile(
    r"archive/(?:data/weights/(?:weight_\d+|model_weights_config\.json)|models/model\.json|extra/export\.json|"
    r"data/constants/(?:tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|archive_format|"
    r"archive_version|byteorder|\.data/(?:version|serialization_id))"
)
_SAMPLES = "archive/data/sample_inputs/model.pt"

# What a string of the graph may be, by its key: code is made of all of these.
_NAME = r"[\w.+]*"
_SPECIFICATION = r'(?:"(?:type|context|children_spec|builtins\.(?:tuple|list|dict)|null|\[\])"|[\[\]{}:, \d]|null)*'
_STRINGS = {
    **dict.fromkeys(("name", "as_name", "type", "parameter_name", "buffer_name", "tensor_constant_name"), _NAME),
    **dict.fromkeys(("fqn", "forward_arg_names", "verifiers", "torch_version", "as_string"), _NAME),
    **dict.fromkeys(("in_spec", "out_spec"), _SPECIFICATION),
    "as_float": r"-?Infinity|NaN",
    # from_file reads and writes files
    "target": r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|torch\.ops\.higher_order\.scan|torch\.sym_(?:max|min|not)|"
    r"_operator\.(?:add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem)",
    # Mul(Integer(8), Symbol('s27', positive=True, integer=True))
    "expr_str": r"(?:\b(?:Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Eq|Ne|Equality|"
    r"Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|And|Or|Not|True|False|true|false|positive|"
    r"nonnegative|integer|[su]\d+|\d+)\b|[(),=' -])*",
    # L['ids'].size()[0] == L['state'][0].size()[0]
    "guards_code": r"(?:L\['\w+'\](?:\[\d+\])?\.size\(\)\[\d+\]|\b(?:min|max|Min|Max|Mod|"
    r"PythonMod|FloorDiv|CeilDiv)\(|\d|[ (),+*/%<>=!-])*",
}
_PATTERNS = {key: re.compile(pattern, re.ASCII) for key, pattern in _STRINGS.items()}
_NOTES = {"stack_trace", "nn_module_stack", "torch_fn"}  # of a node; nothing runs them


def load_pt2(path: str | os.PathLike[str]) -> ExportedProgram:
    """The program in that file; `.module()` of it is called.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something that the exports of seqlab do not hold.
    """
    data = Path(path).read_bytes()
    try:
        members = _members(data)
        for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
            _require_tensors(members, f"archive/data/{folder}/", f"model_{folder}_config.json", prefix)
        _require_plain(json.loads(members["archive/models/model.json"]), "the graph")
        torch.load(io.BytesIO(members[_SAMPLES]), weights_only=True)
    except Exception as error:
        raise ValueError(f"{os.fspath(path)} is no program that seqlab has exported: {error}") from error
    checked = io.BytesIO()  # what torch reads is what was looked at, however else the file could be read
    with zipfile.ZipFile(checked, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    checked.seek(0)
    return torch.export.load(checked)


def _members(data: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if not _MEMBERS.fullmatch(info.filename) or info.filename in members:
                raise ValueError(f"{info.filename!r} does not belong there")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{info.filename} is compressed")
            members[info.filename] = archive.read(info)
    return members


def _require_tensors(members: dict[str, bytes], folder: str, config: str, prefix: str) -> None:
    """Whether all weights, or constants, are the plain bytes of tensors."""
    for name, told in json.loads(members[folder + config])["config"].items():
        if told["use_pickle"] is not False or not re.fullmatch(rf"{prefix}\d+", told["path_name"]):
            raise ValueError(f"{name} is no plain tensor")


def _require_plain(value: Any, key: str) -> None:
    """Whether the strings of a graph are such as `_STRINGS` says."""
    if isinstance(value, str):
        if key not in _PATTERNS or not _PATTERNS[key].fullmatch(value):
            raise ValueError(f"{key} of its graph is {value[:80]!r}")
    elif isinstance(value, list):
        for each in value:
            _require_plain(each, key)
    elif isinstance(value, dict):
        for inner, each in value.items():
            notes = inner == "metadata" and isinstance(each, dict) and each.keys() <= _NOTES
            if not notes or not all(isinstance(note, str) for note in each.values()):
                _require_plain(each, inner)
