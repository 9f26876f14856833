"""Nothing that a bundle holds is executed, and nothing outside of it is opened, whoever loads it."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import seqlab
from audit import outside, watched
from hostile_files import NAMES, PARTS, Payload, change, pickles, put
from seqlab.errors import InputError
from typing_words import REPOSITORY, Outcome


@pytest.fixture
def folder(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles["classification"], tmp_path / "root" / "bundle"))


def test_a_pickle_is_never_loaded(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    kinds = list(pickles(canary))
    assert len(kinds) == 6
    for content in kinds:
        for name in ("model.safetensors", "tokenizer.json", "labels.json"):
            whole = Path(shutil.copytree(folder, tmp_path / "root" / "other", dirs_exist_ok=True))
            put(whole, name, content)
            with watched() as seen, pytest.raises(InputError):
                seqlab.load(whole)
            assert not canary.exists()
            assert not {name for name, _ in seen} & {"os.system", "subprocess.Popen"}
            shutil.rmtree(whole)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_seqlabs_own_is_refused(folder: Path, tmp_path: Path, part: str) -> None:
    sys.modules.pop("my_module", None)
    for place in ("cell", "encoder", "form", "_target_"):

        def plant(described: dict[str, Any], place: str = place) -> None:
            encoder = described["task"]["model"]["encoder"]
            node = {"part": part, "self": str(tmp_path / "canary"), "command": f"touch {tmp_path / 'canary'}"}
            if place == "form":
                described["form"] = node
            elif place == "_target_":
                encoder["cell"] = {"_target_": part.replace(":", ".")}
            else:
                (encoder if place == "cell" else described["task"]["model"])[place] = node

        whole = Path(shutil.copytree(folder, tmp_path / "root" / place))
        change(whole, plant)
        with watched() as seen, pytest.raises(InputError, match=r"not seqlab's own|holds a _target_"):
            seqlab.load(whole)
        assert not (tmp_path / "canary").exists()
        assert "my_module" not in sys.modules
        assert not {name for name, _ in seen} & {"os.system", "subprocess.Popen"}


@pytest.mark.parametrize("version", [1, 2, 99, None, "3"])
def test_a_bundle_of_another_format_is_refused_in_a_sentence(folder: Path, version: object) -> None:
    change(folder, lambda described: described.update(format_version=version))
    told = re.escape(f"has format {version!r}, and this seqlab reads format 3: use the seqlab that wrote it, or train")
    with pytest.raises(InputError, match=told):
        seqlab.load(folder)


@pytest.mark.parametrize("name", ["torch.os.system", "system", "torch.load", "Mine.touch", "nothing"])
def test_a_trusted_module_is_no_way_to_what_it_imports(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_alone.py").write_text(
        "import torch\nfrom os import system\nfrom pathlib import Path\nclass Mine(type(Path())): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"part": f"mine_alone:{name}", "command": f"touch {tmp_path / 'canary'}", "f": str(tmp_path / "canary")}
    change(folder, lambda described: described.update(form=node))
    with watched() as seen, pytest.raises(InputError, match="mine_alone"):
        seqlab.load(folder, trust="mine_alone")
    assert not (tmp_path / "canary").exists()
    assert not {name for name, _ in seen} & {"os.system", "subprocess.Popen"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_cannot_leave_the_bundle(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("secret")
    for key in ("sha256", "end_tokens"):
        whole = Path(shutil.copytree(folder, folder.with_name(key)))
        change(whole, lambda described, key=key: described[key].update({name: "0"}))  # type: ignore[misc]
        begin = time.monotonic()
        with watched() as seen, pytest.raises(InputError, match="no place for a file"):
            seqlab.load(whole)
        assert outside(seen, whole) == []
        assert time.monotonic() - begin < 2


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder", "unlisted"])
@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", "model.json"])
def test_only_plain_files_are_read(folder: Path, kind: str, name: str) -> None:
    secret = folder.parent / "secret"
    shutil.copy(folder / name, secret)
    (folder / name).unlink()
    if kind == "link":
        (folder / name).symlink_to(secret)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    elif name == "labels.json":
        shutil.copy(secret, folder / name)
        change(folder, lambda described: described["sha256"].pop(name))
    begin = time.monotonic()
    with watched() as seen, pytest.raises(InputError):
        seqlab.load(folder)
    assert str(secret) not in outside(seen, folder)
    assert time.monotonic() - begin < 2


def test_what_is_described_as_giant_is_not_made(folder: Path) -> None:
    def grow(described: dict[str, Any]) -> None:
        described["task"]["model"]["encoder"]["width"] = 10**5

    change(folder, grow)
    memory = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match="its weights do not fit the model it describes"):
        seqlab.load(folder)
    assert psutil.Process().memory_info().rss - memory < 50e6
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    put(folder, "model.safetensors", len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="is damaged"):
        seqlab.load(folder)
    assert psutil.Process().memory_info().rss - memory < 50e6


@pytest.mark.parametrize("verb_name", ["predict", "evaluate", "export", "serve"])
def test_every_verb_refuses_with_exit_code_2(verb: Callable[..., Outcome], verb_name: str, folder: Path) -> None:
    put(folder, "model.safetensors", pickle.dumps(Payload(folder / "canary")))
    words = {"predict": ["input=-"], "evaluate": ["data=text", "data.path=x"], "serve": ["port=0"]}
    words["export"] = [f"out={folder.parent / 'out'}"]
    code, out, err = verb(verb_name, f"run={folder}", *words[verb_name])
    assert (code, out) == (2, "")
    assert "is damaged" in err
    assert not (folder / "canary").exists()


# What loads a program: one that it has just made.
PROGRAMS = {
    "seqlab/layers/native/heap.py": {"CDLL("},  # of the C library
    "seqlab/layers/native/compiler.py": {"CDLL("},
    "seqlab/exporting/formats/aoti.py": {"aoti_load_package("},
    "seqlab/exporting/formats/pt2_loading.py": {
        "torch.load(",
        "export.load(",
    },  # of what it has checked, by weights_only=True
    "seqlab/exporting/formats/torchscript.py": {"jit.load("},
}


def test_no_source_loads_what_can_be_executed() -> None:
    dangerous = re.compile(
        r"weights_only\s*=\s*False|pickle\.loads?\(|(?<!safetensors\.)torch\.load\(|yaml\.load\(|\beval\(|\bexec\(|"
        r"jit\.load\(|export\.load\(|aoti_load_package\(|torch\.hub|dlopen|CDLL\("
    )
    allowed = re.compile(r"\.eval\(\)")
    found = {
        str(path.relative_to(REPOSITORY)): {*matches}
        for folder in ("seqlab", "scripts", "examples")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (matches := dangerous.findall(allowed.sub("", path.read_text(encoding="utf-8"))))
    }
    assert found == PROGRAMS


def test_a_served_model_ends_with_the_signal(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "seqlab.serve", f"run={folder}", "port=0", "threads=1"]
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.match(
            r"serving bundle \(classification, one class\) at http://127\.0\.0\.1:\d+\n", process.stdout.readline()
        )
        begin = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 10
