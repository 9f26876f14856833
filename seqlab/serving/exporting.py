"""An export: the folder in which a trained model leaves for production.

    model.ts           the model, in a format's own file or files (`FORMATS`)
    export.json        what it is: task, signatures, vocabularies; digests of the rest
    parity.json        for each format how far it is from eager mode, and what it takes (seqlab/serving/parity.py)
    tokenizer.json     and, where the task has them, target_tokenizer.json, labels.json, words.json, as in the bundle

It appears whole, or not at all where a format fails or is not what was trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqlab import __version__
from seqlab.bundle import Bundle
from seqlab.durable import new_folder, write_file
from seqlab.errors import InputError, did_you_mean
from seqlab.serving.exported_programs import export_aoti, export_pt2
from seqlab.serving.onnx_graphs import export_onnx
from seqlab.serving.parity import Exported, compare
from seqlab.serving.torchscript import export_torchscript

FORMAT_VERSION = 1

# Each writes its file into a folder, with what export.json tells, and loads it again.
FORMATS: dict[str, Callable[[Bundle, Mapping[str, Any], Path], Exported]] = {
    "torchscript": export_torchscript,
    "pt2": export_pt2,
    "aoti": export_aoti,
    "onnx": export_onnx,
}


def require_out(out: Path) -> None:
    """Whether an export may be written there, asked before it is made.

    Raises:
        InputError: there is something else, or no folder to make it in.
    """
    if out.exists() and not (out / "export.json").is_file():
        raise InputError(f"out={out} is there, and is no export that could be replaced: choose another out=")
    if not out.absolute().parent.is_dir():
        raise InputError(f"out={out}: there is no folder {out.parent} to make it in")


def chosen(name: str) -> list[str]:
    """The formats of that name, or "all" of them.

    Raises:
        InputError: there is none.
    """
    if name != "all" and name not in FORMATS:
        raise InputError(f"format={name} is not {', '.join(FORMATS)} or all{did_you_mean(name, FORMATS)}")
    return [*FORMATS] if name == "all" else [name]


def export(bundle: Bundle, formats: list[str], out: Path) -> dict[str, Any]:
    """Writes the model in these formats, in place of the export that was there; what parity.json tells. Of several
    formats those that cannot hold this model are left out, and parity.json tells why.

    Raises:
        InputError: the one format asked for cannot hold this model, or one differs from it.
    """
    bundle.task.model.eval()
    about = {
        "format_version": FORMAT_VERSION,
        "seqlab": __version__,
        "task": type(bundle.task).__name__,
        "model": type(bundle.task.model).__name__,
        "end": bundle.vocabularies.written.end,
        "end_tokens": bundle.vocabularies.end_tokens,
        "vocabularies_sha256": bundle.vocabularies.digest,
        "max_length": bundle.max_length,
        "over_long": bundle.over_long,
        "positions": getattr(bundle.task.model, "max_length", None),
    }
    out = out.absolute()
    with new_folder(out) as folder:
        parity: dict[str, Any] = {}
        for name in formats:
            before = {*folder.iterdir()}
            try:
                exported = FORMATS[name](bundle, about, folder)
            except InputError as error:
                if len(formats) == 1:
                    raise
                for path in {*folder.iterdir()} - before:
                    path.unlink()
                parity[name] = {"refused": str(error)}
                continue
            size = sum((folder / file).stat().st_size for file in exported.files)
            parity[name] = {"files": exported.files, "bytes": size, **compare(bundle, exported)}
        for name, data in bundle.vocabularies.files.items():
            write_file(folder / name, data)
        write_file(folder / "parity.json", json.dumps(parity, indent=2).encode())
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
        write_file(folder / "export.json", json.dumps({**about, "sha256": digests}, indent=2).encode())
    return parity
