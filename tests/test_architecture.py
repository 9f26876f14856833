"""The house: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "seqlab"

# A row may import the rows named after it, and itself where it is a folder. All may import `errors`. The longest name
# that fits is a module's row: `seqlab.config.schema` stands in "config.schema", not in "config".
BELOW_TASKS = {"models", "layers", "ragged", "text"}
BELOW_BUNDLE = {"tasks", "data", *BELOW_TASKS, "storage", "config.instantiate"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ragged": set(),
    "storage": set(),
    "text": set(),
    "config.instantiate": set(),
    "config.compose": set(),
    "layers": {"ragged"},
    "models": {"layers", "ragged"},
    "data": {"ragged", "text", "storage"},
    "tasks": {*BELOW_TASKS, "data.batch"},
    "bundle": BELOW_BUNDLE,
    "inference": {"bundle", *BELOW_BUNDLE},
    "training": {"inference", "bundle", *BELOW_BUNDLE},
    "exporting": {"inference", "bundle", *BELOW_BUNDLE},
    "server": {"inference", "bundle", *BELOW_BUNDLE},
    "config.schema": {"config.instantiate", "training"},
}
MAY_IMPORT["experiment"] = {"training", "inference", "bundle", "config.schema", *BELOW_BUNDLE}
MAY_IMPORT["cli"] = {"experiment", "config.compose", *MAY_IMPORT["experiment"]}
VERBS = {
    "train": {"training", "experiment", "config.schema"},
    "evaluate": {"training", "experiment", "bundle", "config.instantiate", "layers.device", "storage"},
    "predict": {"inference", "experiment", "bundle", "config.instantiate", "layers.device", "storage"},
    "export": {"exporting", "bundle", "config.instantiate"},
    "serve": {"server", "inference", "experiment", "bundle", "config.instantiate", "layers.device"},
    "report": {"data.statistics", "training", "experiment", "config.schema", "config.instantiate", "storage"},
    "check": {"training", "experiment", "config.schema"},
}
MAY_IMPORT |= {verb: {"cli", *rows} for verb, rows in VERBS.items()}
KNOW_HYDRA = {"config.compose", "cli"}

MODULES = {
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
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
    """The row of a module: the longest name in MAY_IMPORT that its own begins with."""
    names = [name for name in MAY_IMPORT if f"{module}.".startswith(f"seqlab.{name}.")]
    return max(names, key=len, default=module)


def inside(module: str) -> set[str]:
    """The modules of seqlab that the module imports."""
    return imports(module) & MODULES.keys() - {"seqlab"}


def test_every_module_stands_in_a_row() -> None:
    assert len(MODULES) > 30
    folders = {module for module in MODULES if f"{module}." in {"seqlab.", "seqlab.config."}}
    assert {row(module) for module in MODULES.keys() - folders} == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if row(module) in MAY_IMPORT])
def test_imports_point_one_way(module: str) -> None:
    allowed = {f"seqlab.{name}" for name in (row(module), "errors", *MAY_IMPORT[row(module)])}
    wrong = {name for name in inside(module) if not any(f"{name}.".startswith(f"{above}.") for above in allowed)}
    assert wrong == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    assert list(TopologicalSorter({module: inside(module) for module in MODULES}).static_order())


def test_only_the_top_knows_hydra() -> None:
    know = {module for module in MODULES if any(re.match(r"(hydra|omegaconf)\b", name) for name in imports(module))}
    assert {row(module) for module in know} <= KNOW_HYDRA
    assert "seqlab.cli.command" in know


def test_what_help_needs_is_light() -> None:
    modules = ["seqlab", "seqlab.cli.command", "seqlab.config.instantiate", *(f"seqlab.{verb}" for verb in VERBS)]
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    found = {{'torch', 'datasets', 'tensorboard', 'tokenizers', 'numpy', 'pyarrow', 'rich'}} & sys.modules.keys()
    if found:
        sys.exit(f"{{module}} imports {{', '.join(sorted(found))}}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
