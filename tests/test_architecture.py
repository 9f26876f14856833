"""The house: who may import whom, what stays light, and what stays short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "seqlab"
VERBS = {"train", "evaluate", "predict", "export", "serve", "explain", "check", "report", "compare"}

# A row may import the rows named after it, and itself where it is a folder. `errors` stands below all.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "durable": set(),
    "valid_json": set(),
    "device": set(),
    "heap": set(),
    "ragged": set(),
    "text": set(),
    "layers": {"ragged"},
    "data": {"text", "ragged"},
    "models": {"layers", "ragged"},
    "tasks": {"models", "layers", "ragged", "data.batch", "text"},
    "instantiate": set(),
    "bundle": {"tasks", "models", "layers", "data", "text", "ragged", "instantiate", "durable"},
    "training": {"bundle", "tasks", "models", "layers", "data", "text", "ragged", "durable", "valid_json", "heap"},
    "reporting": {"data"},
    "serving": {
        "bundle",
        "tasks",
        "models",
        "layers",
        "data",
        "text",
        "ragged",
        "device",
        "durable",
        "valid_json",
        "heap",
    },
    "configuration": set(),
    "command_line": {"configuration"},
    "runs": {"training", "command_line", "text", "bundle", "settings"},
}
MAY_IMPORT["experiment"] = {*MAY_IMPORT, "settings"}
MAY_IMPORT["settings"] = {"instantiate", "training"}
MAY_IMPORT["results"] = {"experiment", "data", "models", "serving"}
MAY_IMPORT |= {verb: {*MAY_IMPORT} - VERBS for verb in VERBS}
KNOW_HYDRA = {"configuration", "command_line", "experiment", *VERBS}

MODULES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Everything the module imports, wherever in the file, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & MODULES.keys()) or {str(node.module)}
    return found


def row(module: str) -> str:
    return module.split(".")[1]


INSIDE = {module: imports(module) & MODULES.keys() - {"seqlab"} for module in MODULES}


def test_every_module_stands_in_a_row() -> None:
    assert len(MODULES) > 30
    assert {row(module) for module in MODULES if module != "seqlab"} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if module != "seqlab"])
def test_imports_point_one_way(module: str) -> None:
    allowed = {f"seqlab.{name}" for name in (row(module), "errors", *MAY_IMPORT[row(module)])}
    wrong = {name for name in INSIDE[module] if not any(f"{name}.".startswith(f"{above}.") for above in allowed)}
    assert wrong == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    assert list(TopologicalSorter(INSIDE).static_order())


def test_only_the_top_knows_hydra() -> None:
    know = {module for module in MODULES if any(re.match(r"(hydra|omegaconf)\b", name) for name in imports(module))}
    assert {row(module) for module in know} <= KNOW_HYDRA
    assert "seqlab.cli.command" in know


@pytest.mark.parametrize(
    "module",
    [
        "seqlab",
        "seqlab.cli.command",
        "seqlab.config.instantiate",
        *(f"seqlab.{v}" for v in sorted(VERBS) if f"seqlab.{v}" in MODULES),
    ],
)
def test_what_help_needs_is_light(module: str) -> None:
    heavy = "{'torch', 'datasets', 'tensorboard', 'tokenizers', 'numpy', 'pyarrow', 'rich'}"
    code = f"import sys, {module}; found = {heavy} & sys.modules.keys(); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_trainer_stays_a_page() -> None:
    source = (PACKAGE / "training" / "trainer.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 250
    (fit,) = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == "fit"]
    assert fit.end_lineno is not None
    assert fit.end_lineno - fit.lineno < 60


@pytest.mark.parametrize("verb", sorted(verb for verb in VERBS if f"seqlab.{verb}" in MODULES))
def test_a_verb_stays_short(verb: str) -> None:
    assert len(MODULES[f"seqlab.{verb}"].read_text(encoding="utf-8").splitlines()) <= 80


def test_no_text_names_a_path_of_somebodys_machine() -> None:
    texts = [
        path
        for folder in ("seqlab", "conf", "docs", "notebooks")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".md", ".ipynb"}
    ]
    texts += [
        REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "constraints.txt")
    ]
    machine = re.compile(r"(?<![\w./])/(work|root|tmp|home|opt|mnt|Users)/")
    assert len(texts) > 60
    assert [str(path) for path in texts if machine.search(path.read_text(encoding="utf-8"))] == []
