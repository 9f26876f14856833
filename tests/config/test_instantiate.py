"""Objects from plain dicts: every mistake is told, nothing is called before all is right, nothing foreign is called."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from seqlab.config.instantiate import instantiate, mistakes
from seqlab.errors import InputError

PARTS = """
    from __future__ import annotations
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
    from typing import Any, Literal, Protocol

    class Shape(Protocol):
        def area(self) -> float: ...

    @dataclass
    class Box:
        width: float
        height: float = 1.0

    class Lid:
        def __init__(self, box: Box, vocabulary: int = 0) -> None:
            self.box, self.vocabulary = box, vocabulary

    class Model:
        def __init__(
            self,
            vocabulary: int,
            layers: int,
            box: Callable[..., Box] | None = None,
            lid: Lid | None = None,
            betas: tuple[float, float] = (0.9, 0.99),
            names: Sequence[str] = (),
            mode: Literal["split", "drop"] = "split",
            bias: bool = True,
            scale: float | None = None,
            label: str = "",
            table: dict[str, int] | None = None,
            shape: Shape | None = None,
        ) -> None:
            if len(names) == 1:
                raise ValueError(f"names={names}: one is too few")
            if layers < 0:
                raise ValueError(f"layers must not be negative, got {layers}")
            self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

    def anything(**options: Any) -> dict[str, Any]:
        return options
"""


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module named `parts`, importable for one test."""
    (tmp_path / "parts.py").write_text(dedent(PARTS))
    (tmp_path / "broken.py").write_text("import json\n1 / 0\n")
    (tmp_path / "wants.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "parts", raising=False)


TRUST = {"parts", "broken", "wants", "nowhere"}


def model(**arguments: object) -> dict[str, object]:
    return {"_target_": "parts.Model", "layers": 2, **arguments}


def test_builds_a_tree_and_gives_facts_only_to_those_that_take_them() -> None:
    box = {"_target_": "parts.Box", "width": 3}
    lid = {"_target_": "parts.Lid", "box": box}
    made = instantiate(model(lid=lid, box={**box, "_partial_": True}), "model", trust=TRUST, vocabulary=7, classes=3)
    assert (made.vocabulary, made.layers, made.lid.vocabulary, made.lid.box.width) == (7, 2, 7, 3)
    assert isinstance(made.box, functools.partial)
    assert made.box(height=5).height == 5


def test_a_partial_node_needs_no_argument() -> None:
    assert instantiate({"_target_": "parts.Box", "_partial_": True}, "box", trust=TRUST)(2.0).width == 2.0


def test_a_plain_section_is_checked_against_the_target_it_is_given() -> None:
    from seqlab.errors import StoppedError

    made = instantiate({"message": "bye"}, "stop", target=StoppedError, signal_number=15)
    assert made.exit_code == 143
    assert mistakes({"mesage": "bye"}, "stop", target=StoppedError, context={"signal_number"}) == [
        "stop.mesage: no argument of StoppedError (did you mean message?); drop it with ~stop.mesage",
        "stop.message: missing, expected str; add +stop.message=...",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 1),
        ("scale", None),
        ("scale", 0.5),
        ("betas", [1, 0.5]),
        ("names", ["a", "b"]),
        ("mode", "drop"),
        ("bias", False),
        ("table", {"a": 1}),
        ("label", ""),
    ],
)
def test_values_that_fit(name: str, value: object) -> None:
    made = instantiate(model(**{name: value}), "model", trust=TRUST, vocabulary=7)
    assert getattr(made, name) == (tuple(value) if name == "betas" else value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layers", "abc", "int"),
        ("layers", 2.0, "int"),
        ("layers", True, "int"),
        ("layers", None, "int"),
        ("scale", "x", "float or null"),
        ("scale", True, "float or null"),
        ("betas", [0.9], "a list of float, float"),
        ("betas", [0.9, "x"], "a list of float, float"),
        ("betas", 0.9, "a list of float, float"),
        ("names", "ab", "a list of str"),
        ("names", ["a", 1], "a list of str"),
        ("mode", "truncate", "'split' or 'drop'"),
        ("bias", 1, "bool"),
        ("label", 3, "str"),
        ("table", {"a": "b"}, "a dict of str, int or null"),
        ("lid", "big", "a node with _target_ (Lid) or null"),
        ("shape", "round", "a node with _target_ (Shape) or null"),
        ("box", "cube", "a node with _target_ and _partial_: true or null"),
    ],
)
def test_values_that_do_not_fit(name: str, value: object, expected: str) -> None:
    (line,) = mistakes(model(**{name: value}), "model", trust=TRUST, context={"vocabulary"})
    assert line == f"model.{name}: expected {expected}, got {value!r}; change model.{name}=..."


def test_a_part_of_the_wrong_kind_is_refused() -> None:
    (line,) = mistakes(model(lid={"_target_": "parts.Box", "width": 1}), "model", trust=TRUST, context={"vocabulary"})
    assert line == "model.lid: expected a node with _target_ (Lid) or null, got Box; change model.lid=..."
    assert mistakes(model(label={"_target_": "parts.Box", "width": 1}), "model", trust=TRUST, context={"vocabulary"})


def test_all_mistakes_of_a_tree_are_told_at_once() -> None:
    lid = {"_target_": "parts.Lid", "box": {"_target_": "parts.Box", "widht": 1}, "vocabulary": 3}
    node = {"_target_": "parts.Model", "lid": lid, "bias": "yes", "box": {"_target_": "parts.Bx", "_partial_": 1}}
    with pytest.raises(InputError) as error:
        instantiate(node, "model", trust=TRUST, vocabulary=7)
    assert str(error.value).split("\n") == [
        "model.lid.box.widht: no argument of Box (did you mean width?); drop it with ~model.lid.box.widht",
        "model.lid.box.width: missing, expected float; add +model.lid.box.width=...",
        "model.lid.vocabulary: is found out at run time; drop it with ~model.lid.vocabulary",
        "model.box._target_=parts.Bx: parts has no Bx (did you mean Box?)",
        "model.box._partial_: expected bool, got 1",
        "model.bias: expected bool, got 'yes'; change model.bias=...",
        "model.layers: missing, expected int; add +model.layers=...",
    ]


def test_a_value_error_of_the_target_names_the_node() -> None:
    with pytest.raises(InputError, match=r"^model: layers must not be negative, got -1$"):
        instantiate(model(layers=-1), "model", trust=TRUST, vocabulary=7)
    with pytest.raises(InputError, match=r"^model\.names=\['a'\]: one is too few$"):  # an argument that it begins with
        instantiate(model(names=["a"]), "model", trust=TRUST, vocabulary=7)


def test_a_target_that_takes_any_option_is_not_checked() -> None:
    assert instantiate({"_target_": "parts.anything", "x": [1, {"y": 2}]}, "a", trust=TRUST) == {"x": [1, {"y": 2}]}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("parts.Mdel", r"parts has no Mdel \(did you mean Model\?\)"),
        ("nowhere.Thing", "there is no module nowhere"),
        ("seqlab.dta.Thing", r"seqlab has no dta \(did you mean data\?\)"),
        ("broken.Thing", r"importing broken failed: ZeroDivisionError: division by zero \(.*broken.py:2\)"),
        ("wants.Thing", "importing wants failed: No module named 'not_installed_anywhere'"),
        ("Model", "expected a dotted name"),
        ("parts..Model", "expected a dotted name"),
        (3, "expected a dotted name"),
    ],
)
def test_targets_that_are_not_there(target: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        instantiate({"_target_": target}, "model", trust=TRUST)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pathlib.Path.touch",
        "subprocess.Popen",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.functional.relu",
        "torch.optim.optimizer.functools.partial",
        "torch.nn.utils.clip_grad_norm_",
        "seqlab.config.instantiate.instantiate",
        "seqlab.config.instantiate.sys.exit",
        "seqlab.data.batch.torch.hub.load",
        "seqlab.errors.InputError",
        "seqlab.layers.native.compiler.built",
        "seqlab.server.listen.listen",
        "seqlab.config.schema.Settings",
        "seqlab.config.schema.Batching",
        "seqlab.cli.command.Command",
        "seqlab.storage.files.replace_file",
        "seqlab.training.checkpoint.Checkpoints",
        "seqlab.training.run_folder.RunFolder",
        "seqlab.training.logging.json_lines.MetricsLog",
        "seqlab.training.trainer.Trainer",
        "seqlab.inference.predictor.Predictor",
        "seqlab.server.service.Service",
        "seqlab.data.batch.Batch",
        "seqlab.data.corpus.Corpus",
        "seqlab.data.sources.files.lines",
        "seqlab.data.sources.source.Source",
        "seqlab.layers.native.compiler.subprocess.Popen",
        "seqlab.models.decoding.generate",
        "seqlab.models.decoding.Running",
        "seqlab.tasks.task.Task",
        "seqlab.tasks.task.StepOutput",
        "seqlab.tasks.metrics.metric.choose_metrics",
        "seqlab.text.tokenizer.Tokenizer",
        "seqlab.training.schedules.Schedule",
        "seqlab.training.optimizers.torch.load",
        "parts.Model",
    ],
)
def test_foreign_targets_are_refused_unless_named(target: str) -> None:
    with pytest.raises(InputError, match=r"model\._target_=.*type model\._target_="):
        instantiate({"_target_": target, "command": "true"}, "model")


def test_a_foreign_module_is_not_even_imported(tmp_path: Path) -> None:
    (tmp_path / "canary.py").write_text("from pathlib import Path\nPath(__file__).with_name('sung').touch()\n")
    with pytest.raises(InputError):
        instantiate({"_target_": "canary.Path"}, "model")
    assert not (tmp_path / "sung").exists()


def test_trust_covers_what_it_names_and_no_more() -> None:
    node = {"_target_": "parts.Box", "width": 1}
    assert not mistakes(node, "box", trust={"parts.Box"})
    assert not mistakes(node, "box", trust={"parts"})
    assert mistakes(node, "box", trust={"parts.Bo"})
    assert mistakes(node, "box", trust={"part"})


@pytest.mark.parametrize("target", ["system", "os.system", "Path", "Path.touch", "Mine.touch"])
def test_a_module_is_trusted_for_what_it_defines_alone(target: str, tmp_path: Path) -> None:
    text = "import os\nfrom os import system\nfrom pathlib import Path\nclass Mine(Path): pass\n"
    (tmp_path / "parts.py").write_text(text)
    (mistake,) = mistakes({"_target_": f"parts.{target}"}, "box", trust={"parts"})
    assert "your own code must be named by you" in mistake
    typed = mistakes({"_target_": f"parts.{target}"}, "box", trust={f"parts.{target}"})
    assert not any("your own code" in mistake for mistake in typed)


def test_torch_modules_and_seqlab_parts_are_parts() -> None:
    layer = instantiate({"_target_": "torch.nn.Linear", "in_features": 2, "bias": False}, "head", out_features=3)
    assert layer.weight.shape == (3, 2)
    for part in (
        "layers.recurrent.cells.LSTMCell",
        "models.classifier.Classifier",
        "models.decoding.Decoding",
        "tasks.tagging.Tagging",
        "tasks.metrics.text.Bleu",
        "text.tokenizer_training.Words",
        "data.preprocessing.tagging.TaggingPreprocessor",
        "data.sources.csv.CsvFiles",
        "data.sources.hub.SplitNames",
        "data.records.Columns",
        "training.schedules.Cosine",
    ):
        assert instantiate({"_target_": f"seqlab.{part}", "_partial_": True}, "part")
    assert not mistakes({"_target_": "seqlab.training.optimizers.adamw"}, "o", context={"model"})
    assert not mistakes({"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.95]}, "o", context={"params"})


def test_the_module_alone_loads_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, seqlab.config.instantiate; assert 'torch' not in sys.modules"], check=True
    )
