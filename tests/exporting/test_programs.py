"""Graphs of a model: pt2 by Python without seqlab, ONNX by onnxruntime, and who has none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.exporting.adapters.lookup import adapter_of
from seqlab.exporting.equal_lengths import by_length
from seqlab.exporting.folder import export
from seqlab.exporting.padded import to_padded
from seqlab.exporting.programs import Program
from seqlab.exporting.requirements import UnsuitedError
from seqlab.layers.recurrent.cells import TanhCell
from seqlab.models.encoders import RecurrentEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged
from seqlab.text.tags import allowed_transitions
from typing_words import REPOSITORY
from untrained_bundles import LABELS, V, tiny_bundle


@given(st.lists(st.one_of(st.integers(1, 4), st.just(50)), max_size=8))
def test_equal_lengths_are_asked_together_and_answered_in_order(lengths: list[int]) -> None:
    asked: list[int] = []

    def core(x_NL: Tensor, y_NL: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(x_NL.shape[1])
        return (x_NL * y_NL).sum(1), x_NL

    x = [torch.randn(length) for length in lengths]
    squares, same = by_length(core, x, x, outputs=2)
    assert sorted(asked) == sorted(set(lengths))
    torch.testing.assert_close(squares, [(each * each).sum() for each in x])
    torch.testing.assert_close(same, x)


def test_few_tokens_are_asked_at_once() -> None:
    asked: list[tuple[int, ...]] = []

    def core(x_NL: Tensor) -> tuple[Tensor]:
        asked.append(tuple(x_NL.shape))
        return (x_NL.sum(1),)

    (sums,) = by_length(core, [torch.full([length], 1.0) for length in (3, 2, 3, 3, 9)], tokens_at_once=7)
    assert torch.stack(sums).tolist() == [3, 2, 3, 3, 9]
    assert sorted(asked) == [(1, 2), (1, 3), (1, 9), (2, 3)]


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        (((2, 0),), "sequence 1 is empty"),
        (((2, 3), (2, 4)), "sequence 1 has 4 tokens in input 1, and 3 in input 0"),
        (((2, 3), (2,)), "input 1 has 1 sequences, and input 0 has 2"),
        (((2,), (2, 3)), "input 1 has 2 sequences, and input 0 has 1"),
    ],
)
def test_inputs_that_do_not_agree_or_are_empty_are_told(lengths: tuple[tuple[int, ...], ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        by_length(lambda *x: x, *([torch.ones(length) for length in each] for each in lengths))


# Two files that are copied to where an exported model runs, and need torch alone.
WITHOUT = """
import sys
sys.path.append(sys.argv[3])
sys.modules["seqlab"] = None
import torch
from equal_lengths import by_length
from pt2_loading import load_pt2
equal = load_pt2(sys.argv[1]).module()
with torch.no_grad():
    (answers,) = by_length(equal, [torch.tensor([5, 6, 7, 5]), torch.tensor([5, 5, 5, 5])])
torch.save(torch.stack(answers), sys.argv[2])
"""


def test_pt2_loads_where_there_is_no_seqlab(tmp_path: Path) -> None:
    bundle, folder = tiny_bundle("numbers", "gru"), tmp_path / "out"
    report = export(bundle, ["pt2"], folder)["pt2"]
    assert report["largest_difference"].keys() == {"equal", "padded"}
    for name in ("equal_lengths", "formats/pt2_loading"):
        shutil.copy(REPOSITORY / "seqlab" / "exporting" / f"{name}.py", tmp_path)
    given = [str(folder / "equal.pt2"), str(tmp_path / "got"), str(tmp_path)]
    words = [sys.executable, "-I", "-W", "ignore", "-c", WITHOUT, *given]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens = Ragged(torch.tensor([5, 6, 7, 5, 5, 5, 5, 5]), Layout(torch.tensor([4, 4])))
    torch.testing.assert_close(torch.load(tmp_path / "got"), bundle.task.model.answer(bundle.task.model(tokens)))
    signatures = json.loads((folder / "export.json").read_text())["signatures"]
    assert signatures == {
        "equal.pt2": {"inputs": ["tokens"], "outputs": ["answers"]},
        "padded.pt2": {"inputs": ["ids", "mask"], "outputs": ["answers"]},
    }


SMALL: dict[str, Callable[[], nn.Module]] = {
    "tags by a CRF": lambda: Tagger(RecurrentEncoder(V, TanhCell, 8), len(LABELS), allowed=allowed_transitions(LABELS)),
    "language": lambda: LanguageModel(RecurrentEncoder(V, TanhCell, 8, causal=True), V),
    "pairs": lambda: Seq2Seq(RecurrentEncoder(V, TanhCell, 8), V, V),
}


@pytest.mark.parametrize("task", SMALL)
@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_small_graphs_with_loops_and_states(name: str, task: str, tmp_path: Path) -> None:
    """`make parity` asks all of them, larger."""
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra seqlab[onnx] is not installed")
    bundle = replace(tiny_bundle(task, "tanh"), longest=3)
    bundle.task.model = SMALL[task]().eval()
    report = export(bundle, [name], tmp_path / "out")[name]
    assert set(report["largest_difference"]) == {"padded"} | ({"equal"} if name == "pt2" and task != "pairs" else set())


def programs(model: nn.Module) -> list[Program]:
    return adapter_of(to_padded(model)).programs()


@pytest.mark.parametrize("task", ["language", "pairs"])
@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
def test_what_a_step_takes_has_the_names_and_the_layout_in_which_it_came(task: str, encoder: str) -> None:
    """Machine code reads a tensor as if it were row-major, and never looks."""
    *_, first, step = programs(tiny_bundle(task, encoder).task.model)
    ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    read = first.module(ids, mask)[task == "language" :]
    told = [name.removesuffix("_after") for name in first.outputs if name != "scores"]
    assert told == step.input_names[2:]
    _, *after = step.module(ids, mask, *read)
    assert [f"{name}_after" for name in told if name.startswith("state")] == step.outputs[1:]
    assert all(tensor.is_contiguous() for tensor in (*read, *after))


def test_a_tagger_of_words_reads_as_many_as_it_has_positions() -> None:
    model = tiny_bundle("tags of spelled words", "learned").task.model
    (program,) = programs(model)
    room = model.encoder.max_length
    ids, words = torch.arange(3, 3 + room), torch.arange(room) % 4
    labels, probabilities = program.module(ids.view(1, -1, 1), torch.ones(1, room, 1), words.view(1, -1))
    one = Layout(torch.tensor([room]))
    hidden = model(Ragged(ids, one), Ragged(torch.ones(room, dtype=torch.int64), one), Ragged(words, one))
    torch.testing.assert_close(probabilities[0], model.head.probabilities(hidden.values))
    assert torch.equal(labels[0], model.head.decode(hidden.values))
    assert program.dynamic_shapes["ids"][1].max == room


def test_onnx_has_operators_of_its_own_for_recurrences(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra seqlab[onnx] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra seqlab[onnx] is not installed")
    report = export(tiny_bundle("classes", "lstm"), ["onnx"], tmp_path / "out")["onnx"]
    assert report["largest_difference"]["padded"]["answers"] < 1e-5
    model = onnx.load(tmp_path / "out" / "padded.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LSTM") == 4  # two layers, each in both directions
    assert not {"Loop", "Scan", "If"} & set(kinds)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [18]
    assert "task" in json.loads({each.key: each.value for each in model.metadata_props}["seqlab"])
    axes = {one.name: [size.dim_param for size in one.type.tensor_type.shape.dim] for one in model.graph.input}
    assert axes == {"ids": ["sequences", "length"], "mask": ["sequences", "length"]}


@pytest.mark.parametrize(("encoder", "told"), [("my", "no operator that computes MyCell"), ("universal", "no graph")])
def test_what_has_no_graph_is_told_with_the_formats_that_can(encoder: str, told: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra seqlab[onnx] is not installed")
    with pytest.raises(UnsuitedError, match=rf"{told}.*format=torchscript"):
        export(tiny_bundle("classes", encoder), ["onnx"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
