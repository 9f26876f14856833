"""Graphs of a model: pt2 by Python without seqlab, ONNX by onnxruntime, and who has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from untrained_bundles import tiny_bundle

from seqlab.errors import InputError
from seqlab.ragged import Layout, Ragged
from seqlab.serving.equal_lengths import by_length
from seqlab.serving.exporting import export


@given(st.lists(st.one_of(st.integers(1, 4), st.just(50)), max_size=8))
def test_equal_lengths_are_asked_together_and_answered_in_order(lengths: list[int]) -> None:
    asked: list[int] = []

    def core(x_NL: Tensor, y_NL: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(x_NL.shape[1])
        return (x_NL * y_NL).sum(1), x_NL

    x = [torch.randn(length) for length in lengths]
    answers = by_length(core, x, x)
    assert sorted(asked) == sorted(set(lengths))
    if lengths:
        torch.testing.assert_close(answers[0], [(each * each).sum() for each in x])
        torch.testing.assert_close(answers[1], x)


def test_an_empty_sequence_has_no_equal() -> None:
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        by_length(lambda x: [x], [torch.ones(2), torch.ones(0)])


WITHOUT = """
import sys
sys.modules["seqlab"] = None
import torch
equal = torch.export.load(sys.argv[1]).module()
torch.save(equal(torch.tensor([[5, 6, 7, 5], [5, 5, 5, 5]]))[0], sys.argv[2])
"""


def test_pt2_loads_where_there_is_no_seqlab(tmp_path: Path) -> None:
    bundle, folder = tiny_bundle("numbers", "gru"), tmp_path / "out"
    report = export(bundle, ["pt2"], folder)["pt2"]
    assert report["largest_difference"].keys() == {"equal", "padded"}
    words = [sys.executable, "-I", "-W", "ignore", "-c", WITHOUT, str(folder / "equal.pt2"), str(tmp_path / "got")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens = Ragged(torch.tensor([5, 6, 7, 5, 5, 5, 5, 5]), Layout(torch.tensor([4, 4])))
    torch.testing.assert_close(torch.load(tmp_path / "got"), bundle.task.model.answer(bundle.task.model(tokens)))


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
    assert [given.name for given in model.graph.input] == ["ids", "mask"]


@pytest.mark.parametrize(("encoder", "told"), [("my", "no operator that computes MyCell"), ("universal", "no graph")])
def test_what_has_no_graph_is_told_with_the_formats_that_can(encoder: str, told: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra seqlab[onnx] is not installed")
    with pytest.raises(InputError, match=rf"{told}.*format=torchscript"):
        export(tiny_bundle("classes", encoder), ["onnx"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
