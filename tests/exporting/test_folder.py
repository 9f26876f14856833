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
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion
from torch.utils.cpp_extension import include_paths, library_paths

from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.errors import CheckFailedError, InputError
from seqlab.exporting import parity, requirements
from seqlab.exporting.folder import FORMATS, export, require_out
from seqlab.exporting.formats import torchscript
from seqlab.exporting.parity import Exported, Outputs, cases, compare, expected, random_batch
from seqlab.exporting.requirements import UnsuitedError, blaming, require
from seqlab.exporting.ties import path_scores
from seqlab.layers.crf import CRFHead, log_partition
from seqlab.layers.native.compiler import private_folder
from seqlab.layers.recurrent.cells import GRUCell
from seqlab.models.classifier import Classifier
from seqlab.models.decoding import Decoding, generate
from seqlab.models.encoders import RecurrentEncoder
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged
from seqlab.storage.files import write_file
from typing_words import REPOSITORY, TINY, Outcome
from untrained_bundles import ENCODERS, LONGEST, MODELS, V, tiny_bundle

PROGRAM = REPOSITORY / "examples" / "cpp" / "run.cpp"


def test_a_run_is_exported_whole_and_again(verb: Callable[..., Outcome]) -> None:
    assert verb("train", *TINY, "output_dir=run")[0] == 0
    for _ in range(2):  # the second replaces the first
        code, out, err = verb("export", "run=run", "out=exported")
        assert (code, err) == (0, "torchscript: being written, and compared with the trained model\n")
    assert out.startswith("torchscript: exported/model.ts, ")
    folder = Path("exported")
    assert {path.name for path in folder.iterdir()} == {"export.json", "model.ts", "parity.json", "tokenizer.json"}
    about = json.loads((folder / "export.json").read_text())
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert about["sha256"].keys() == {"model.ts", "parity.json", "tokenizer.json"}
    assert (about["end"], about["source_end"], about["mask"]) == (0, 0, None)
    assert (folder / "tokenizer.json").read_bytes() == Path("run/bundle/tokenizer.json").read_bytes()
    extra = {"export.json": ""}
    with torchscript.deprecated():
        torch.jit.load(folder / "model.ts", _extra_files=extra)
    inside = json.loads(extra["export.json"])
    assert inside["methods"][0] == "forward(Tensor tokens, Tensor offsets, Tensor[] state) -> ((Tensor, Tensor[]))"
    assert about.pop("signatures") == {"model.ts": {"methods": inside["methods"]}}
    assert {**about, "methods": inside["methods"]} == {**inside, "sha256": about["sha256"]}
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
    assert verb("export", "run=run", "out=exported")[0] == 0
    before = Path("exported/parity.json").read_bytes()
    monkeypatch.setattr(parity, "ATOL", -1.0)
    code, _, err = verb("export", "run=run", "out=exported")
    assert code == 8
    assert Path("exported/parity.json").read_bytes() == before  # what was there before stays
    assert "model.ts is not what was trained, and was not kept: scores of its ragged signature differ by" in err
    assert sorted(path.name for path in Path().iterdir()) == ["exported", "mine", "run"]


def written(bundle: Bundle, about: object, folder: Path) -> Exported:
    """A format that is quick."""
    write_file(folder / "model.ts", b"")
    return Exported({"model.ts": {}}, {})


def test_only_what_an_export_has_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "torchscript", written)
    bundle, out = tiny_bundle("numbers", "tanh"), tmp_path / "out"
    out.mkdir()
    for text in ("[]", "{}", '{"format_version": 1}', '{"format_version": 9, "sha256": {}}'):
        (out / "export.json").write_text(text)
        with pytest.raises(InputError, match=r"out is there, and is no export that could be replaced \("):
            require_out(out)
    (out / "export.json").write_text('{"format_version": 1, "sha256": {"model.ts": ""}}')
    require_out(out)
    (out / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"does not list thesis\.tex"):
        require_out(out)
    (out / "thesis.tex").unlink()

    (tmp_path / "link").symlink_to("out")  # stays a link, and what it names is replaced
    for _ in range(2):
        require_out(tmp_path / "link")
        export(bundle, ["torchscript"], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]
    require_out(out)

    out.rename(tmp_path / ".out.old")  # where a crash leaves it
    require_out(out)
    (tmp_path / ".out.old" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"\.out\.old is there, .*does not list thesis.tex"):
        require_out(out)


def test_of_all_formats_those_that_cannot_hold_a_model_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsuited(bundle: Bundle, about: object, folder: Path) -> Exported:
        (folder / "begun").mkdir()
        raise UnsuitedError("no operator for it")

    def missing(bundle: Bundle, about: object, folder: Path) -> Exported:
        raise InputError("a package is not there")

    bundle = tiny_bundle("numbers", "tanh")
    monkeypatch.setitem(FORMATS, "torchscript", written)
    monkeypatch.setitem(FORMATS, "pt2", unsuited)
    report = export(bundle, ["pt2", "torchscript"], tmp_path / "out")
    assert report["pt2"] == {"refused": "no operator for it"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model.ts", "export.json"}
    assert not (tmp_path / "out" / "begun").exists()
    monkeypatch.setitem(FORMATS, "onnx", unsuited)
    with pytest.raises(InputError, match="no format can hold this model\npt2: no operator for it\nonnx: no operator"):
        export(bundle, ["pt2", "onnx"], tmp_path / "none")
    monkeypatch.setitem(FORMATS, "onnx", missing)
    with pytest.raises(InputError, match="a package is not there"):
        export(bundle, ["pt2", "onnx"], tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parity_sees_one_wrong_row_in_the_longest_text() -> None:
    bundle = tiny_bundle("classes", "gru")

    def wrong(batch: Batch) -> Outputs:
        answers = expected(bundle.task.model, batch)["answers"]
        answers[batch.tokens.lengths == 4 * LONGEST] += 1e-3
        return {"answers": answers}

    right: Callable[[Batch], Outputs] = lambda batch: expected(bundle.task.model, batch)  # noqa: E731
    one = {"model.x": {}}
    assert compare(bundle, Exported(one, {"fine": right}))["largest_difference"] == {"fine": {"answers": 0.0}}
    with pytest.raises(CheckFailedError, match=r"answers of its other signature differ by 1.0e-03 .* lengths 48$"):
        compare(bundle, Exported(one, {"fine": right, "other": wrong}))


def test_a_call_that_fails_is_told_with_its_signature_and_lengths() -> None:
    def fails(batch: Batch) -> Outputs:
        raise RuntimeError

    def flat(batch: Batch) -> Outputs:
        return {"answers": torch.zeros(len(batch))}

    bundle = tiny_bundle("classes", "gru")
    with pytest.raises(CheckFailedError, match="its padded signature fails in a batch of lengths 1: RuntimeError"):
        compare(bundle, Exported({"model.x": {}}, {"padded": fails}))
    with pytest.raises(CheckFailedError, match=r"lengths 1: answers have the shape \[1\], and \[1, 3\] is expected"):
        compare(bundle, Exported({"model.x": {}}, {"padded": flat}))


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_either_of_two_labels_that_are_alike_is_right(head: Literal["crf", "softmax"]) -> None:
    bundle = tiny_bundle("tags by a CRF", "gru")
    bundle.task.model = model = Tagger(RecurrentEncoder(V, GRUCell, 8), 3, head).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():  # labels 0 and 1 are one another's twins
            parameter[1] = parameter[0]
        if head == "crf":
            model.head.transitions[:, 1] = model.head.transitions[:, 0]
        model.head.bias.copy_(torch.tensor([5.0, 5.0, 0.0]))

    def other(chosen: int) -> Callable[[Batch], Outputs]:
        def call(batch: Batch) -> Outputs:
            got = expected(model, batch)
            assert not got["labels"].any()
            got["labels"][1::2] = chosen
            return got

        return call

    assert compare(bundle, Exported({"a": {}}, {"one": other(1)}))["largest_difference"]["one"]["labels"] == 0
    with pytest.raises(CheckFailedError, match="labels of its two signature differ"):
        compare(bundle, Exported({"a": {}}, {"two": other(2)}))


def test_a_path_is_worth_its_share_of_all_paths() -> None:
    head = CRFHead(4, 3).requires_grad_(False)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    hidden = Ragged(torch.randn(6, 4), Layout(torch.tensor([4, 0, 1, 1])))
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    scores = path_scores(head, hidden, labels)
    assert scores[1] == 0
    for i, rows in enumerate((slice(0, 4), slice(4, 4), slice(4, 5), slice(5, 6))):
        x, lengths = hidden.values[rows], hidden.lengths[i : i + 1]
        log_z = log_partition(head.scores(x), head.transitions, head.start, head.end, lengths)
        torch.testing.assert_close(float(log_z - scores[i]), float(head.loss(x, labels[rows], lengths)))


def test_lengths_go_to_four_times_the_longest_or_to_where_positions_end() -> None:
    for longest, room, most in ((12, None, 48), (12, 20, 20), (1, None, 4), (30, 10, 10), (600, None, 2400)):
        asked = cases(longest, room)
        assert max(max(lengths) for lengths in asked if lengths) == most
        assert {0, 1, 2, 3, 7, 64} <= {len(lengths) for lengths in asked}
        assert any(0 in lengths for lengths in asked)
    padded = [len(lengths) * max(lengths) ** 2 for lengths in cases(8192, None) if len(lengths) > 1]
    assert max(padded) <= 3 * 4096**2  # of memory for attention, of each head
    assert [4 * 8192] in cases(8192, None)


def test_a_bundle_of_unknown_lengths_is_asked_as_far_as_positions_go() -> None:
    bundle = replace(tiny_bundle("classes", "learned"), longest=None)
    right: Callable[[Batch], Outputs] = lambda batch: expected(bundle.task.model, batch)  # noqa: E731
    assert compare(bundle, Exported({"a": {}}, {"one": right}))["lengths"] == [0, 64]


def test_something_is_written_behind_an_empty_source() -> None:
    for lengths in ([0, 3, 0, 1, 0], [2, 0], [0, 0, 5]):
        batch = random_batch(tiny_bundle("pairs", "gru"), lengths)
        assert bool(((batch.tokens.lengths == 0) & (batch.extras["prefix"].lengths > 0)).any())


@pytest.mark.parity
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_model_in_every_format(
    name: str, task: str, encoder: str, tmp_path: Path, differences: dict[tuple[str, str], dict[str, str]]
) -> None:
    if task == "pairs without attention" and encoder in ("transformer", "learned", "universal"):
        pytest.skip("a Transformer knows its source by attention alone")
    if name == "aoti" and (task, encoder) not in (("classes", "lstm"), ("language", "transformer")):
        pytest.skip("a program takes a minute to compile, and its graph is that of pt2")
    told = differences.setdefault((task, encoder), {})
    if name != "torchscript" and (encoder == "universal" or (name == "onnx" and encoder == "my")):
        with pytest.raises(InputError, match="format=torchscript"):
            export(tiny_bundle(task, encoder), [name], tmp_path / "out")
        told[name] = "-"
        return
    found = export(tiny_bundle(task, encoder), [name], tmp_path / "out")[name]["largest_difference"]
    told[name] = f"{max(largest for outputs in found.values() for largest in outputs.values()):.1e}"


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
    with pytest.raises(InputError, match=r"TorchScript cannot compile .*test_folder\.Reading, so .*\n.*_Environ"):
        export(bundle, ["torchscript"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "value", "refused"),
    [
        (torch, "__version__", TorchVersion("2.14.0"), set(FORMATS)),
        (torch, "__version__", TorchVersion("2.12.1"), {"pt2", "aoti", "onnx"}),
        (sys, "version_info", (3, 14, 0), set(FORMATS)),
    ],
)
def test_beyond_the_versions_that_were_tried_others_are_named(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, refused: set[str]
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda package: package)
    for each in FORMATS:
        require(each)
    monkeypatch.setattr(module, name, value)
    for each in FORMATS:
        if each not in refused:
            require(each)
            continue
        with pytest.raises(
            InputError, match=rf"format={each} needs torch of at least .* below 2\.14, and Python"
        ) as told:
            require(each)
        assert str(told.value).endswith("Install others" + ", or choose format=torchscript" * (refused != set(FORMATS)))


def test_a_package_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda package: None if package == "onnxscript" else package)
    with pytest.raises(InputError, match=r"\(onnxscript\): install seqlab\[onnx\]"):
        export(tiny_bundle("numbers", "tanh"), ["torchscript", "onnx"], tmp_path / "out")


def test_only_a_class_of_the_users_own_is_to_blame() -> None:
    def fail(module: nn.Module) -> None:
        with blaming(nn.Sequential(module), "no graph"):
            raise KeyError

    with pytest.raises(UnsuitedError, match=r"no graph, with \S*test_folder\.Reading in it: KeyError"):
        fail(Reading(2, 2))
    with pytest.raises(KeyError):
        fail(nn.Linear(1, 1))


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

    model, none, other = folder / "model.ts", tmp_path / "none.ts", tmp_path / "other.ts"
    other.write_bytes(b"other")
    for text, words, code, err in (
        ("", (model,), 0, ""),
        ("5\n5 x 6\n", (model,), 2, "error: line 2: a token must be a number, not x\n"),
        ("5\n", (model, "20x", "0"), 2, "error: MOST must be a number, not 20x\n"),
        ("5\n", (model, "20", "0"), 2, "error: Expected at most 3 argument(s) for operator 'forward'"),
        ("5 99999\n", (model,), 2, "error: index out of range in self\n"),
        ("5\n", (none,), 2, f"error: cannot load {none}: open file failed"),
        ("5\n", (other,), 2, f"error: cannot load {other}: PytorchStreamReader failed"),
    ):
        done = subprocess.run([program, *words], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr[: len(err)]) == (code, "", err)
        assert done.stderr.count("\n") == (code != 0)  # a line, without the frames of C++

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
