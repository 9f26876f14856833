"""What is declared, pinned and shipped; the wheel, in an environment of its own, finds its configuration."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from seqlab.config.compose import conf_folder

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
BENCHMARK = [Requirement(line) for line in PROJECT["optional-dependencies"]["bench"]]
OPTIONAL = [Requirement(line) for extra in ("mt", "serve", "onnx") for line in PROJECT["optional-dependencies"][extra]]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for pin in [Requirement(line)]
}


CAME_WITH_OTHERS = {"omegaconf", "yaml", "huggingface_hub"}  # in the version that Hydra and datasets ask for


def imported(*folders: str) -> set[str]:
    """Return the packages that are imported in these folders, or asked for by `pytest.importorskip`."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    found: set[str] = set()
    for node in [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            found.add(ast.literal_eval(node.args[0]))
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"seqlab"}


def import_names(requirements: list[Requirement]) -> set[str]:
    names = {"hydra-core": "hydra", "pillow": "PIL"}
    return {names.get(requirement.name, requirement.name).replace("-", "_") for requirement in requirements}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    assert imported("seqlab") - CAME_WITH_OTHERS == import_names(DECLARED + OPTIONAL)


def test_what_tests_and_scripts_import_is_declared() -> None:
    own = {path.stem for folder in ("tests", "scripts") for path in (REPOSITORY / folder).rglob("*.py")} | {"benchmark"}
    found = imported("tests", "scripts") - own
    assert {"pytest", "psutil", "transformers"} <= found
    came_with_others = {*CAME_WITH_OTHERS, "functorch"}  # with torch
    assert found - came_with_others - import_names(DECLARED + DEVELOPMENT + BENCHMARK) == set()


def test_no_torch_is_taken_whose_plain_tensors_can_run_code() -> None:
    """CVE-2026-24747: before 2.10, `torch.load(weights_only=True)`, which reads the examples of a .pt2 file."""
    (torch,) = (requirement for requirement in DECLARED if requirement.name == "torch")
    assert "2.9.1" not in torch.specifier
    assert "2.10.0" in torch.specifier


def test_every_pin_is_exact_and_fits_what_is_declared() -> None:
    for pin in PINS.values():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
    for requirement in DECLARED + DEVELOPMENT + BENCHMARK + OPTIONAL:
        (specifier,) = PINS[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(specifier.version), requirement


def test_every_package_that_would_be_installed_is_pinned() -> None:
    todo, seen = [*DECLARED, *DEVELOPMENT], set()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        exact = any(
            specifier.operator == "==" for specifier in requirement.specifier
        )  # as torch pins its GPU libraries
        assert name in PINS or exact, requirement
        if name not in seen and not exact:
            seen.add(name)
            needs = map(Requirement, distribution(requirement.name).requires or [])
            todo += [
                need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)
            ]
    assert len(seen) > 50


def test_a_checkout_finds_its_own_configuration() -> None:
    assert conf_folder() == REPOSITORY / "conf"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; of ours it sees what was installed into it, but not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "env")})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    return python.parent


def run(folder: Path, *command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_complete(installed: Path, tmp_path: Path) -> None:
    code = "import seqlab.config.compose as c, seqlab; print(seqlab.__file__); print(c.conf_folder())"
    package, conf = map(Path, run(tmp_path, installed / "python", "-c", code).split())
    assert package.is_relative_to(installed.parent)
    assert conf == package.parent / "conf"
    assert {p.relative_to(conf) for p in conf.rglob("*.yaml")} == {
        p.relative_to(REPOSITORY / "conf") for p in (REPOSITORY / "conf").rglob("*.yaml")
    }
    for pattern in ("*.py", "native/*.*"):
        shipped = {p.relative_to(package.parent) for p in package.parent.rglob(pattern)}
        assert (
            shipped == {p.relative_to(REPOSITORY / "seqlab") for p in (REPOSITORY / "seqlab").rglob(pattern)} != set()
        )
    assert (package.parent / "py.typed").exists()
    assert list(package.parent.parent.glob("seqlab-*.dist-info/licenses/LICENSE"))
    assert not list(package.parent.parent.glob("conf"))


@pytest.mark.parametrize("command", [["python", "-m", "seqlab.train"], ["seqlab-train"]], ids=" ".join)
def test_the_installed_verb_runs_from_any_folder(installed: Path, tmp_path: Path, command: list[str]) -> None:
    program = [str(installed / command[0]), *command[1:]]
    assert run(tmp_path, *program, "--help").startswith("seqlab.train: ")
    assert "seed: 3\n" in run(tmp_path, *program, "--cfg", "job", "seed=3")
    assert list(tmp_path.iterdir()) == []
