"""An export: the folder in which a trained model leaves for production.

    model.ts           the model, in a format's own file or files (`FORMATS`)
    export.json        what it is: task, vocabularies, the signatures of each file; digests of the rest
    parity.json        for each format how far it is from eager mode, and what it takes (seqlab/exporting/parity.py)
    tokenizer.json     and, where the task has them, target_tokenizer.json, labels.json, words.json, as in the bundle

It appears whole, or not at all where a format fails or is not what was trained; an older export then stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqlab import __version__
from seqlab.bundle import Bundle
from seqlab.errors import InputError, did_you_mean
from seqlab.exporting.adapters.lookup import adapter_of
from seqlab.exporting.formats.aoti import export_aoti
from seqlab.exporting.formats.onnx import export_onnx
from seqlab.exporting.formats.pt2 import export_pt2
from seqlab.exporting.formats.torchscript import export_torchscript
from seqlab.exporting.parity import Exported, compare
from seqlab.exporting.requirements import UnsuitedError, require
from seqlab.storage.files import remove
from seqlab.storage.folders import new_folder, replaced
from seqlab.storage.manifests import digests

FORMAT_VERSION = 1

# Each writes its file into a folder, with what export.json tells, and loads it again.
FORMATS: dict[str, Callable[[Bundle, Mapping[str, Any], Path], Exported]] = {
    "torchscript": export_torchscript,
    "pt2": export_pt2,
    "aoti": export_aoti,
    "onnx": export_onnx,
}


def require_out(out: Path) -> None:
    """Raise `InputError` if an export may not be written there. A link stands for what it names."""
    folder = out.resolve()
    if not folder.parent.is_dir():
        raise InputError(f"out={out}: there is no folder {out.parent} to make it in")
    place = folder if folder.exists() else replaced(folder)  # what would be replaced
    if place.exists() and (strange := _strange(place)) is not None:
        shown = out if place == folder else place
        raise InputError(
            f"out={out}: {shown} is there, and is no export that could be replaced{strange}: choose another out="
        )


def _strange(folder: Path) -> str | None:
    """Return why a folder is no export, as " (...)"; None if it is one."""
    try:
        about = json.loads((folder / "export.json").read_bytes())
        version, listed = about["format_version"], {*about["sha256"], "export.json"}
    except (OSError, ValueError, KeyError, TypeError):
        return " (it has no export.json, or not such a one)"
    if version != FORMAT_VERSION:
        return f" (its format is {version}, and {FORMAT_VERSION} is known)"
    others = sorted(path.name for path in folder.iterdir() if path.name not in listed or not path.is_file())
    return f" (its export.json does not list {others[0]})" if others else None


def chosen(name: str) -> list[str]:
    """Return the formats of that name, or "all" of them. Raise `InputError` if there is none."""
    if name != "all" and name not in FORMATS:
        raise InputError(f"format={name} is not {', '.join(FORMATS)} or all{did_you_mean(name, FORMATS)}")
    return [*FORMATS] if name == "all" else [name]


def export(
    bundle: Bundle, formats: list[str], out: Path, begin: Callable[[str], object] = lambda name: None
) -> dict[str, Any]:
    """Write the model in these formats, in place of the export that was there; return what parity.json holds.

    Of several formats, those that cannot hold this model are left out, and parity.json says why.

    Args:
        bundle: the model.
        formats: their names.
        out: a folder, new or `require_out`'s.
        begin: called with each format before it is written, which can take minutes.

    Raises:
        InputError: no format asked for can hold this model, or one cannot be written here.
        CheckFailedError: what a format holds differs from it.
    """
    for name in formats:
        require(name)
    bundle.task.model.eval()
    adapter = adapter_of(bundle.task.model)
    about = {
        "format_version": FORMAT_VERSION,
        "seqlab": __version__,
        "task": type(bundle.task).__name__,
        "model": type(bundle.task.model).__name__,
        "end": bundle.vocabularies.written.end,
        "source_end": bundle.vocabularies.tokenizer.end,
        "mask": len(bundle.vocabularies.tokenizer) if adapter.reads_masks else None,
        "end_tokens": bundle.vocabularies.end_tokens,
        "vocabularies_sha256": bundle.vocabularies.digest,
        "max_length": bundle.max_length,
        "over_long": bundle.over_long,
        "positions": bundle.task.max_length,
    }
    with new_folder(out.resolve()) as folder:
        parity: dict[str, Any] = {}
        signatures: dict[str, Any] = {}
        for name in formats:
            begin(name)
            before = {*folder.iterdir()}
            try:
                exported = FORMATS[name](bundle, about, folder)
            except UnsuitedError as error:
                if len(formats) == 1:
                    raise
                for path in {*folder.iterdir()} - before:
                    remove(path)
                parity[name] = {"refused": str(error)}
                continue
            signatures |= exported.signatures
            size = sum((folder / file).stat().st_size for file in exported.files)
            parity[name] = {"files": exported.files, "bytes": size, **compare(bundle, exported)}
        if not signatures:
            told = "\n".join(f"{name}: {report['refused']}" for name, report in parity.items())
            raise UnsuitedError(f"no format can hold this model\n{told}")
        for name, data in bundle.vocabularies.files.items():
            (folder / name).write_bytes(data)
        (folder / "parity.json").write_bytes(json.dumps(parity, indent=2).encode())
        described = {**about, "signatures": signatures, "sha256": digests(folder)}
        (folder / "export.json").write_bytes(json.dumps(described, indent=2).encode())
    return parity
