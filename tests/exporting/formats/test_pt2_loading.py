"""What `load_pt2` loads, and what it refuses: every way by which a .pt2 file could have something run."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from seqlab.exporting.formats.pt2_loading import load_pt2

Members = dict[str, bytes]
GRAPH, WEIGHTS, CONSTANTS = (
    f"archive/{name}" for name in ("models/model.json", "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json")
)  # fmt: skip


class Small(nn.Module):
    """With a weight, a constant, and two sizes that may be any."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([x, y]) * self.weight + self.shift,)


@pytest.fixture(scope="module")
def members() -> Members:
    axes = {0: Dim("n", min=1)}
    example = (torch.ones(2, 3), torch.ones(2, 3))
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(Small().requires_grad_(False), example, dynamic_shapes={"x": axes, "y": axes})
        torch.export.save(program, file, extra_files={"export.json": "{}"})
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_what_was_exported_loads(members: Members, tmp_path: Path) -> None:
    program = load_pt2(write(tmp_path / "a.pt2", members)).module()
    assert program(torch.ones(1, 3), torch.ones(1, 3))[0].tolist() == [[2.0] * 3] * 2


class Canary:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    told = json.loads(data)
    change(told)
    return json.dumps(told).encode()


def first(config: Any, **fields: Any) -> None:
    next(iter(config["config"].values())).update(fields)


def pickled(config: str, prefix: str, **fields: Any) -> Callable[[Members, Path], Members]:
    def craft(members: Members, canary: Path) -> Members:
        told = changed(members[config], lambda told: first(told, path_name=f"{prefix}0", **fields))
        name = f"{config.rsplit('/', 1)[0]}/{prefix}0"
        saved = io.BytesIO()
        torch.save(Canary(canary), saved)
        data = pickle.dumps(Canary(canary)) if prefix == "opaque_obj_" else saved.getvalue()
        return {**members, config: told, name: data}

    return craft


def saved(name: str) -> Callable[[Members, Path], Members]:
    def craft(members: Members, canary: Path) -> Members:
        file = io.BytesIO()
        torch.save((Canary(canary),), file)
        return {**members, f"archive/{name}": file.getvalue()}

    return craft


def in_graph(change: Callable[[Any, str], object]) -> Callable[[Members, Path], Members]:
    def craft(members: Members, canary: Path) -> Members:
        code = f"__import__('os').mkdir({str(canary)!r})"
        return {**members, GRAPH: changed(members[GRAPH], lambda graph: change(graph, code))}

    return craft


def nodes(model: Any) -> list[Any]:
    return model["graph_module"]["graph"]["nodes"]


def legacy(members: Members, canary: Path) -> Members:
    """As torch 2.8 wrote it, which is tried where the new reader fails."""
    file = io.BytesIO()
    torch.save({"a": Canary(canary)}, file)
    parts = dict.fromkeys(("state_dict", "constants", "example_inputs"), file.getvalue())
    return {"version": b"8.20", "serialized_exported_program.json": members[GRAPH]} | {
        f"serialized_{name}.pt": data for name, data in parts.items()
    }


def of_aoti(members: Members, canary: Path) -> Members:
    return {**members, "archive/data/aotinductor/model/model.so": b""}


def size(model: Any, code: str) -> None:
    values = model["graph_module"]["graph"]["tensor_values"]
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}


def placeholder(model: Any, code: str) -> None:
    model.update(json.loads(json.dumps(model).replace('"y"', json.dumps(f"y={code}"))))


def operator_as_input(model: Any, code: str) -> None:
    nodes(model)[0]["inputs"][0]["arg"] = {"as_operator": "torch.os.mkdir"}


WAYS: dict[str, Callable[[Members, Path], Members]] = {
    "a pickled weight": pickled(WEIGHTS, "weight_", use_pickle=True),
    "a pickled constant": pickled(CONSTANTS, "tensor_", use_pickle=True),
    "an opaque object, of which nothing says that it is pickled": pickled(CONSTANTS, "opaque_obj_"),
    "an object of TorchScript": pickled(CONSTANTS, "custom_obj_"),
    "pickled weights of older files": saved("data/weights/model.pt"),
    "pickled constants of older files": saved("data/constants/model.pt"),
    "pickled examples": saved("data/sample_inputs/model.pt"),
    "another program": saved("models/other.json"),
    "a file before 2.9": legacy,
    "machine code": of_aoti,
    "a condition": in_graph(lambda model, code: model["guards_code"].append(code)),
    "a size": in_graph(size),
    "a name": in_graph(placeholder),
    "an operator": in_graph(lambda model, _: nodes(model)[0].update(target="torch.os.mkdir")),
    "an operator that is handed over": in_graph(operator_as_input),
    "an operator of files": in_graph(
        lambda model, _: nodes(model)[0].update(target="torch.ops.aten.from_file.default")
    ),
    "a class": in_graph(
        lambda model, _: model["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
        )
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_file_runs(way: str, members: Members, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt2", WAYS[way](members, tmp_path / "canary"))
    with pytest.raises(ValueError, match="is no program that seqlab has exported"):
        load_pt2(path)
    assert not (tmp_path / "canary").exists()


def test_one_member_is_one(members: Members, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt2", members)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of what is done here
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(GRAPH, b"{}")
    with pytest.raises(ValueError, match="does not belong there"):
        load_pt2(path)
    with pytest.raises(ValueError, match="is compressed"):
        load_pt2(write(tmp_path / "b.pt2", members, zipfile.ZIP_DEFLATED))
    (tmp_path / "c.pt2").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no program"):
        load_pt2(tmp_path / "c.pt2")
    with pytest.raises(FileNotFoundError):
        load_pt2(tmp_path / "d.pt2")
