"""Exports as people make and use them: the folder, its parity, Python without seqlab, C++."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.cpp_extension import include_paths, library_paths
from typing_words import REPOSITORY, TINY, Outcome
from untrained_bundles import ENCODERS, LONGEST, MODELS, V, tiny_bundle

from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.errors import InputError
from seqlab.layers.compiler import private_folder
from seqlab.models.classifier import Classifier
from seqlab.models.decoding import Decoding, generate
from seqlab.models.encoders import RecurrentEncoder
from seqlab.ragged import Layout, Ragged
from seqlab.serving import parity, torchscript
from seqlab.serving.exporting import FORMATS, export
from seqlab.serving.parity import Exported, Outputs, cases, compare, expected

PROGRAM = REPOSITORY / "examples" / "cpp" / "run.cpp"


def test_a_run_is_exported_whole_and_again(verb: Callable[..., Outcome]) -> None:
    assert verb("train", *TINY, "output_dir=run")[0] == 0
    for _ in range(2):  # the second replaces the first
        code, out, err = verb("export", "run=run", "out=exported")
        assert code == 0, err
    assert out.startswith("torchscript: exported/model.ts, ")
    folder = Path("exported")
    assert {path.name for path in folder.iterdir()} == {"export.json", "model.ts", "parity.json", "tokenizer.json"}
    about = json.loads((folder / "export.json").read_text())
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert about["sha256"].keys() == {"model.ts", "parity.json", "tokenizer.json"}
    assert (folder / "tokenizer.json").read_bytes() == Path("run/bundle/tokenizer.json").read_bytes()
    extra = {"export.json": ""}
    with torchscript.deprecated():
        torch.jit.load(folder / "model.ts", _extra_files=extra)
    inside = json.loads(extra["export.json"])
    assert inside["methods"][0] == "forward(Tensor tokens, Tensor offsets, Tensor[] state) -> ((Tensor, Tensor[]))"
    assert {key: inside[key] for key in about.keys() - {"sha256"}} == {
        key: about[key] for key in about.keys() - {"sha256"}
    }
    report = json.loads((folder / "parity.json").read_text())["torchscript"]
    longest = json.loads(Path("run/bundle/model.json").read_text())["longest"]
    assert 1 < longest <= 512
    assert report["lengths"] == [0, 4 * longest]
    assert report["sequences"][0] == 0
    assert report["sequences"][-1] == 64
    assert report["bytes"] == (folder / "model.ts").stat().st_size
    assert report["seconds"].keys() == {"eager", "ragged", "padded"}
    assert max(report["largest_difference"]["ragged"].values()) < 1e-4


def test_nothing_is_left_of_an_export_that_fails(verb: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    assert verb("train", *TINY, "output_dir=run")[0] == 0
    Path("mine").mkdir()
    for words, told in (
        (["out=mine"], "mine is there, and is no export"),
        (["out=no/where"], "there is no folder no"),
        (
            ["out=x", "format=torchscrip"],
            "format=torchscrip is not torchscript, pt2, aoti, onnx or all (did you mean torchscript?)",
        ),
    ):
        code, _, err = verb("export", "run=run", *words)
        assert (code, told in err) == (2, True), err
    monkeypatch.setattr(parity, "ATOL", -1.0)
    code, _, err = verb("export", "run=run", "out=exported")
    assert code == 2
    assert "model.ts is not what was trained, and was not kept: scores of its ragged signature differ by" in err
    assert sorted(path.name for path in Path().iterdir()) == ["cache", "mine", "run"]


def test_parity_sees_one_wrong_row_in_the_longest_text() -> None:
    bundle = tiny_bundle("classes", "gru")

    def wrong(batch: Batch) -> Outputs:
        answers = expected(bundle.task.model, batch)["answers"]
        answers[batch.tokens.lengths == 4 * LONGEST] += 1e-3
        return {"answers": answers}

    right: Callable[[Batch], Outputs] = lambda batch: expected(bundle.task.model, batch)  # noqa: E731
    assert compare(bundle, Exported(("model.x",), {"fine": right}))["largest_difference"] == {"fine": {"answers": 0.0}}
    with pytest.raises(InputError, match=r"answers of its other signature differ by 1.0e-03 .* lengths 48$"):
        compare(bundle, Exported(("model.x",), {"fine": right, "other": wrong}))


def test_lengths_go_to_four_times_the_longest_or_to_where_positions_end() -> None:
    for longest, room, most in ((12, None, 48), (12, 20, 20), (1, None, 4), (30, 10, 10), (600, None, 2400)):
        asked = cases(longest, room)
        assert max(max(lengths) for lengths in asked if lengths) == most
        assert {0, 1, 2, 3, 7, 64} <= {len(lengths) for lengths in asked}
        assert any(0 in lengths for lengths in asked)


@pytest.mark.parity
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_model_in_every_format(name: str, task: str, encoder: str, tmp_path: Path) -> None:
    if task == "pairs without attention" and encoder in ("transformer", "learned", "universal"):
        pytest.skip("a Transformer knows its source by attention alone")
    if name == "aoti" and (task, encoder) not in (("classes", "lstm"), ("language", "transformer")):
        pytest.skip("a program takes a minute to compile, and its graph is that of pt2")
    if name != "torchscript" and (encoder == "universal" or (name == "onnx" and encoder == "my")):
        with pytest.raises(InputError, match="format=torchscript"):
            export(tiny_bundle(task, encoder), [name], tmp_path / "out")
        return
    export(tiny_bundle(task, encoder), [name], tmp_path / "out")


class Reading(nn.Module):
    """A cell that trains, and does not script."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch: int) -> list[Tensor]:
        return [self.linear.weight.new_zeros(batch, 1)]

    def forward(self, x_B: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.linear(x_B) * float(os.environ.get("SCALE", "1")), state


def test_a_cell_that_does_not_compile_is_named_with_the_reason(tmp_path: Path) -> None:
    bundle = tiny_bundle("classes", "gru")
    bundle.task.model = Classifier(RecurrentEncoder(V, Reading, 8), 3, "one")
    with pytest.raises(InputError, match=r"TorchScript cannot compile .*test_export\.Reading, so .*\n.*_Environ"):
        export(bundle, ["torchscript"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "value"), [(torch, "__version__", (2, 14)), (sys, "version_info", (3, 14, 0))]
)
def test_beyond_the_versions_that_have_torchscript_others_are_named(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object
) -> None:
    torchscript.require_versions()
    monkeypatch.setattr(module, name, value)
    with pytest.raises(InputError, match=r"torch below 2\.14 and Python below 3\.14.*format=pt2 or format=onnx"):
        torchscript.require_versions()


WITHOUT = """
import sys
sys.modules["seqlab"] = None
import torch
model = torch.jit.load(sys.argv[1])
torch.save(model(torch.tensor([5, 6, 7, 5]), torch.tensor([0, 3, 3, 4])), sys.argv[2])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    bundle, folder = tiny_bundle("classes", "transformer"), tmp_path_factory.mktemp("export") / "out"
    export(bundle, ["torchscript"], folder)
    return bundle, folder


def test_it_loads_where_there_is_no_seqlab(exported: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, folder = exported
    words = [sys.executable, "-I", "-W", "ignore", "-c", WITHOUT, str(folder / "model.ts"), str(tmp_path / "got")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens = Ragged(torch.tensor([5, 6, 7, 5]), Layout(torch.tensor([3, 0, 1])))
    torch.testing.assert_close(torch.load(tmp_path / "got"), bundle.task.model.answer(bundle.task.model(tokens)))


@pytest.fixture(scope="session")
def program() -> Path:
    """examples/cpp/run.cpp, compiled against this torch; kept, as that takes a while."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++"))), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("C++: there is no compiler here ($CXX or g++, on Linux)")
    includes, libraries = include_paths(), library_paths()
    words = [compiler, "-std=c++20", "-O0", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    words += [word for path in includes for word in ("-isystem", path)] + [str(PROGRAM)]
    words += [word for path in libraries for word in (f"-L{path}", f"-Wl,-rpath,{path}")]
    words += ["-ltorch", "-ltorch_cpu", "-lc10"]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    about = "\n".join([PROGRAM.read_text(), torch.__version__, version, *words])
    path = private_folder() / f"run-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            made = Path(beside, "run")
            done = subprocess.run([*words, "-o", str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            made.rename(path)
    return path


def test_a_program_in_cpp_says_and_writes_the_same(
    program: Path, exported: tuple[Bundle, Path], tmp_path: Path
) -> None:
    def told(*words: str) -> list[list[float]]:
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        given = [str(program), str(folder / "model.ts"), *words]
        done = subprocess.run(given, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]

    rows = [[5, 6, 7, 5], [], [3], [2, 3, 4, 5, 6, 7, 8] * 7]
    bundle, folder = exported
    texts = Ragged.from_list([torch.tensor(row, dtype=torch.int64) for row in rows])
    torch.testing.assert_close(torch.tensor(told()), bundle.task.model.answer(bundle.task.model(texts)))

    rows.pop(1)  # nothing cannot be continued
    bundle = tiny_bundle("language", "transformer")
    folder = tmp_path / "out"
    export(bundle, ["torchscript"], folder)
    texts = Ragged.from_list([torch.tensor(row) for row in rows])
    for end in range(V):  # one that some write soon, and others late or never
        written = generate(bundle.task.model, texts, end, Decoding(max_tokens=20))
        right = [best[0].tokens.tolist() for best in written]
        if len({len(row) for row in right}) > 1:
            break
    assert len({len(row) for row in right}) > 1
    assert told("20", str(end)) == right
