"""R21 and R22: no file that somebody hands over runs anything, or leads out of its folder; nor does a path by HTTP.

There is no verb `explain`; what reads a run or a bundle is `train resume=`, `evaluate`, `export`, `serve`, `predict`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from audit import OURS, outside, ran, watched
from client import JSON
from hostile_files import NAMES, PARTS, Payload, change, pickles, put
from hostile_requests import refused
from seqlab.exporting.formats.pt2_loading import load_pt2
from seqlab.training.checkpoint import CARRIED, FILES
from serving_process import serving_process
from typing_words import Outcome

pytestmark = pytest.mark.reliability

Verb = Callable[..., Outcome]
SOON_S = 2.0  # until a path is refused
GROWTH = 50e6  # bytes
ASKED = {
    "evaluate": ["data=text", "data.path=x"],
    "export": ["out=exported"],
    "serve": ["port=0"],
    "predict": ["input=-"],
}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """What a payload would make; in the end it is not there."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def copied(folder: Path, name: str = "run") -> Path:
    """Anew, in the working folder."""
    shutil.rmtree(name, ignore_errors=True)
    return Path(shutil.copytree(folder, name, symlinks=True))


# --------------------------------------------------------------------------------------------------- R21: pickles


def put_into_checkpoint(folder: Path, name: str, content: bytes) -> None:
    """A file, with the size and digests that belong to it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"files": files, "digest": digest}, indent=1, sort_keys=True))


@pytest.mark.parametrize("name", [*FILES[:3], CARRIED, "other.safetensors"])
def test_r21_a_pickle_in_a_checkpoint(verb: Verb, run: Path, canary: Path, name: str) -> None:
    """Exit code 3: so there is no valid checkpoint, and nothing is trained."""
    for content in pickles(canary):
        whole = copied(run)
        steps = list(whole.glob("checkpoints/step-*"))
        assert steps
        for step in steps:
            put_into_checkpoint(step, name, content)
        logged = (whole / "metrics.jsonl").read_bytes()
        with watched() as seen:
            code, _, err = verb("train", f"resume={whole}")
        assert (code, ran(seen, "canary")) == (3, []), err
        assert "no valid checkpoint" in err
        assert not canary.exists()
        assert (whole / "metrics.jsonl").read_bytes() == logged


@pytest.mark.parametrize("name", ASKED)
def test_r21_a_pickle_in_place_of_weights(verb: Verb, run: Path, canary: Path, name: str) -> None:
    for content in pickles(canary):
        whole = copied(run)
        put(whole / "bundle", "model.safetensors", content)
        with watched() as seen:
            code, out, err = verb(name, f"run={whole}", *ASKED[name])
        assert (code, out, ran(seen, "canary")) == (2, "", []), err
        assert "is damaged" in err
        assert not canary.exists()


def test_r21_pickles_that_lie_beside_are_let_lie(verb: Verb, run: Path, canary: Path) -> None:
    whole = copied(run)
    names = ("pytorch_model.bin", "model.pt", "optimizer.pt", "rng.pkl", "weights.safetensors", "data.pickle")
    for name, content in zip(names, pickles(canary), strict=True):
        for folder in (whole, whole / "bundle", *whole.glob("checkpoints/step-*")):
            (folder / name).write_bytes(content)
    with watched() as seen:
        assert verb("train", f"resume={whole}")[0] == 0
        assert verb("evaluate", f"run={whole}")[0] == 0
    assert ran(seen, "canary") == []
    assert not [a for name, a in seen if name == "open" and str(a[0]).endswith(names)]


# ---------------------------------------------------------------------------------------------- R21: configurations


def payloads(canary: Path) -> list[dict[str, Any]]:
    """Nodes of a configuration that would make the canary."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    program = canary.with_name("canary-compiler")
    program.write_text(f"#!/bin/sh\n{touch}\n")
    program.chmod(0o755)
    canary.with_name("planted.py").write_text(f"class Touch: pass\n{code}\n")  # where the verb looks for modules
    saved = pickle.dumps(Payload(canary), 0).decode("latin-1")
    system = {"_target_": "os.system", "command": touch}
    kept = {"_target_": "seqlab.layers.native.compiler.private_folder"}
    return [
        system,
        {"_target_": "posix.system", "command": touch},
        {"_target_": "subprocess.run", "args": ["touch", str(canary)]},
        {"_target_": "subprocess.Popen", "args": ["touch", str(canary)]},
        {"_target_": "builtins.exec", "source": code},
        {"_target_": "builtins.eval", "source": code},
        {"_target_": "pathlib.Path.touch", "self": str(canary)},
        {"_target_": "shutil.copyfile", "src": str(program), "dst": str(canary)},
        {"_target_": "pickle.loads", "data": saved},
        {"_target_": "planted.Touch"},
        {"_target_": "seqlab.data.corpus.os.system", "command": touch},  # other names of the same
        {"_target_": "torch.nn.parallel.distributed.os.system", "command": touch},
        {"_target_": "seqlab.config.instantiate.instantiate", "node": system, "key": "x", "trust": ["os.system"]},
        {
            "_target_": "seqlab.layers.native.compiler.built",
            "name": "recurrence",
            "compiler": str(program),
            "folder": kept,
        },
        {"_target_": "seqlab.storage.files.replace_file", "path": str(canary), "content": ""},
        {"_target_": "seqlab.training.logging.json_lines.MetricsLog", "folder": str(canary)},
        {"_target_": "seqlab.training.checkpoint.Checkpoints", "folder": str(canary)},
        {"_target_": "seqlab.cli.command.Command", "trust": ["os.system"]},
        {"_target_": "seqlab.config.schema.Settings", "trust": "os.system"},
    ]


PLACES = ("data", "form", "tokenizer", "task.model.encoder.cell", "optimizer", "schedule")


def test_r21_targets_in_a_saved_configuration(verb: Verb, run: Path, canary: Path) -> None:
    """One object in all places is written as YAML's aliases; what the files say of trust is not heeded."""
    kinds = payloads(canary)
    assert len(kinds) == 19
    for payload in kinds:
        whole = copied(run)
        config = yaml.safe_load((whole / "config.yaml").read_text())
        for place in PLACES:
            *parents, last = place.split(".")
            node = config
            for name in parents:
                node = node[name]
            node[last] = payload
        target = payload["_target_"]
        config["trust"] = [target, target.partition(".")[0], target.rpartition(".")[0]]
        text = yaml.safe_dump(config, sort_keys=False)
        assert text.count("*id") >= len(PLACES) - 1
        (whole / "config.yaml").write_text(text)
        facts = json.loads((whole / "run.json").read_text())
        facts["overrides"] += [f"{place}._target_={target}" for place in PLACES] + [f"trust={target}"]
        (whole / "run.json").write_text(json.dumps(facts))
        with watched() as seen:
            resumed, evaluated = verb("train", f"resume={whole}"), verb("evaluate", f"run={whole}")
        assert (resumed[0], evaluated[0]) == (2, 2), (payload, resumed, evaluated)
        for place in PLACES:
            key = place.replace("task.model.encoder", "model")
            assert f"{key}._target_={target}: neither a part of seqlab nor" in resumed[2]
        assert f"data._target_={target}: neither a part of seqlab nor" in evaluated[2]
        assert ran(seen, "canary") == []
        assert not canary.exists()


def test_r21_objects_of_yaml(verb: Verb, run: Path, canary: Path) -> None:
    whole = copied(run)
    with (whole / "config.yaml").open("a") as file:
        file.write(f"\nx: !!python/object/apply:os.system ['touch {canary}']\n")
    with watched() as seen:
        assert verb("train", f"resume={whole}")[0] == 2
        assert verb("evaluate", f"run={whole}")[0] == 2
    assert ran(seen, "canary") == []


def test_r21_parts_in_a_bundle(verb: Verb, classifier: Path, canary: Path) -> None:
    """Each asked by another verb in turn; that each place is looked at is an everyday test."""
    for number, part in enumerate(PARTS):
        whole = copied(classifier, "bundle")
        node = {"part": part, "self": str(canary), "command": f"touch {canary}"}
        change(whole, lambda told, node=node: told["task"]["model"]["encoder"].update(cell=node))  # type: ignore[misc]
        name = list(ASKED)[number % len(ASKED)]
        with watched() as seen:
            code, out, err = verb(name, f"run={whole}", *ASKED[name])
        assert (code, out, ran(seen, "canary")) == (2, "", []), (part, err)
        assert "not seqlab's own" in err
        assert not canary.exists()


# ------------------------------------------------------------------------------------------------------ R22: paths


FOREIGN = re.compile("secret|^/(?:dev|etc/passwd|proc/self/environ)")


def test_r22_names_in_a_manifest(verb: Verb, classifier: Path) -> None:
    """Exit code 2, soon; and nothing is opened that lies elsewhere."""
    assert len(NAMES) == 20
    memory, slowest = psutil.Process().memory_info().rss, 0.0
    Path("secret").write_text("secret")
    kinds: dict[str, Callable[[Path], object]] = {
        "link": lambda file: file.symlink_to(Path("secret").resolve()),
        "device": lambda file: file.symlink_to("/dev/zero"),
        "pipe": os.mkfifo,
    }
    verb("predict", "run=nothing", "input=-")  # what is imported first takes its time
    for name in [*NAMES, *kinds]:
        whole = copied(classifier, "root/bundle")
        if name in kinds:
            shutil.copy(whole / "model.safetensors", "secret")
            (whole / "model.safetensors").unlink()
            kinds[name](whole / "model.safetensors")
        else:
            change(whole, lambda told, name=name: told["sha256"].update({name: "0"}))  # type: ignore[misc]
        begin = time.monotonic()
        with watched() as seen:
            code, out, err = verb("predict", f"run={whole}", "input=-")
        slowest = max(slowest, time.monotonic() - begin)
        assert (code, out) == (2, ""), (name, err)
        assert [path for path in outside(seen, whole.resolve()) if FOREIGN.search(path)] == []
    print(f"\nR22 manifest: {len(NAMES)} names, {len(kinds)} kinds of file; the slowest {slowest:.2f} s")
    assert slowest <= SOON_S
    assert psutil.Process().memory_info().rss - memory <= GROWTH


def overlapping(path: Path, count: int, data: bytes) -> None:
    """An archive whose members all are the same bytes, each of them counted again."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/weights/weight_0", data)
        (first,) = archive.infolist()
        for i in range(1, count):
            again = zipfile.ZipInfo(f"archive/data/weights/weight_{i}")
            again.header_offset, again.file_size, again.compress_size = 0, first.file_size, first.compress_size
            again.CRC = first.CRC
            archive.filelist.append(again)


def test_r22_members_of_archives(tmp_path: Path) -> None:
    memory, slowest = psutil.Process().memory_info().rss, 0.0
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    for name in NAMES:
        path = root / "a.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"secret")
        begin = time.monotonic()
        with watched() as seen, pytest.raises(ValueError, match="does not belong there"):
            load_pt2(path)
        slowest = max(slowest, time.monotonic() - begin)
        assert outside(seen, root) == []
    for declared in (10**9, 0xFFFFFFF0):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/models/model.json", b"{}")
        data = bytearray(path.read_bytes())
        place = data.rindex(b"PK\x01\x02")  # the directory's entry: both sizes
        struct.pack_into("<II", data, place + 20, declared, declared)
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is no program"):
            load_pt2(path)
    overlapping(path, 1000, bytes(1_000_000))
    with pytest.raises(ValueError, match="is no program"):
        load_pt2(path)
    print(f"\nR22 archives: {len(NAMES)} names, the slowest {slowest:.2f} s")
    assert slowest <= SOON_S
    assert psutil.Process().memory_info().rss - memory <= GROWTH


AUDIT = """import os, sys
told = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(lambda name, given: os.write(told, f"{given[0]!r}\\n".encode()) if name == "open" else None)
"""


def test_r22_names_over_http(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, site = tmp_path / "opened", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(AUDIT)  # Python imports it when it starts
    monkeypatch.setenv("OPENED", str(opened))
    with serving_process(writer, tmp_path / "log", modules=[site]) as server:
        assert server.get("/v1/models/writer").status == 200
        memory, slowest, size = server.memory, 0.0, opened.stat().st_size
        assert size > 0
        for name in NAMES:
            for data in (
                f"GET /v1/models/{name} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
                f"GET /{name} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() if name else b"GET  HTTP/1.1\r\n\r\n",
                request("/v1/completions", json.dumps({"prompt": "a", "model": name}).encode()),
                request("/predict", b"{}", 10**12),
            ):
                begin = time.monotonic()
                found = server.raw(data)
                slowest = max(slowest, time.monotonic() - begin)
                assert found is not None
                assert 400 <= found.status < 500, (name, data, found)
                refused(found, found.status)
                assert b"secret" not in found.body
        growth = server.memory - memory
        with opened.open("rb") as file:
            file.seek(size)
            told = [line for line in file.read().decode().splitlines() if not line[1:].startswith(OURS)]
    print(f"\nR22 HTTP: {4 * len(NAMES)} requests, the slowest {slowest:.2f} s, memory {growth / 1e6:+.1f} MB, {told}")
    assert told == []
    assert slowest <= SOON_S
    assert growth <= GROWTH


def request(path: str, body: bytes, declared: int | None = None) -> bytes:
    size = len(body) if declared is None else declared
    return f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{JSON}\r\ncontent-length: {size}\r\n\r\n".encode() + body
