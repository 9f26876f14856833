"""conf/ and the signatures it names tell the same: every knob is listed, and its value is the signature's default."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf, open_dict

from seqlab.bundle import PACKAGES
from seqlab.config.compose import conf_folder, first_job
from seqlab.config.instantiate import instantiate, mistakes, names_part
from seqlab.config.schema import CONTEXT as FOR_TASKS
from seqlab.config.schema import SECTIONS, Settings
from seqlab.text.tokenizer_training import Bytes
from seqlab.text.vocabularies import Vocabularies

CONF = conf_folder()
PRIMARY = {"train", "evaluate", "predict", "check", "report", "serve", "export"}
SHARED = {"verb"}
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
GROUP_FILES = [path for path in FILES if len(path.parts) > 1]

# What is found out at run time, and passed when a part of this group is built.
CONTEXT = {
    "model": {"vocabulary"},
    "word_vectors": {"word_vocabulary"},
    **{group: set(context) for group, (_, context) in SECTIONS.items()},
}


def nodes(tree: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, and where it stands."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield key, tree
        for name, value in tree.items():
            yield from nodes(value, f"{key}.{name}")
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield from nodes(item, f"{key}.{i}")


def read(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(CONF / path), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


NODES = [(key, path.parts[0], node) for path in FILES for key, node in nodes(read(path), str(path))]


def test_no_file_is_overlooked() -> None:
    assert {path.stem for path in FILES if len(path.parts) == 1} == PRIMARY | SHARED
    groups = {"data", "tokenizer", "model", "task", "word_vectors", "optimizer", "schedule", "experiment", "debug"}
    assert {path.parts[0] for path in GROUP_FILES} == groups
    for path in GROUP_FILES:  # describes a part, or changes one that another file of its group describes
        base = [choice for choice in read(path).get("defaults", []) if isinstance(choice, str) and choice != "_self_"]
        whole = path.parts[0] in ("debug", "task", "experiment")  # sections of the whole configuration
        assert whole or "_target_" in read(path) or (path.parent / f"{base[0]}.yaml") in FILES, path


@pytest.mark.parametrize(("key", "group", "node"), NODES, ids=[key for key, *_ in NODES])
def test_a_node_lists_every_knob_with_the_default_of_the_signature(key: str, group: str, node: dict[str, Any]) -> None:
    target = instantiate({"_target_": node["_target_"], "_partial_": True}, key).func
    parameters = inspect.signature(target).parameters
    if parameters:
        assert get_type_hints(target.__init__ if isinstance(target, type) else target)  # else no type would be checked
    required = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    # What a partial node requires and does not hold is passed by whoever calls it.
    knobs = parameters.keys() - CONTEXT.get(group, set()) - (required - node.keys() if node.get("_partial_") else set())
    chosen = {name for choice in node.get("defaults", []) if choice != "_self_" for name in choice}
    assert (node.keys() - {"_target_", "_partial_", "defaults"}) | chosen == knobs
    for name in knobs - chosen:
        default = parameters[name].default
        if default is not inspect.Parameter.empty:
            value = node[name]
            if isinstance(value, dict) and "_target_" in value:
                value = instantiate(value, key)
            assert value == (list(default) if isinstance(default, tuple) else default), name
            assert type(value) is type(default) or isinstance(default, tuple), name


def test_the_facts_are_those_that_vocabularies_tell() -> None:
    assert Vocabularies(Bytes().train(())).build_context.keys() == set(FOR_TASKS)


def test_a_bundle_may_name_whatever_a_model_is_configured_with() -> None:
    named = {node["_target_"] for _, group, node in NODES if group in ("task", "model", "word_vectors", "tokenizer")}
    assert len(named) > 30
    assert [name for name in named if not names_part(name, PACKAGES)] == []


@pytest.mark.parametrize("section", [key for key, (target, _) in SECTIONS.items() if target])
def test_a_section_lists_every_knob_with_the_default_of_the_signature(section: str) -> None:
    target, context = SECTIONS[section]
    assert target is not None
    parameters = inspect.signature(target).parameters
    values = read(Path("train.yaml"))[section]
    assert values.keys() == parameters.keys() - set(context)
    for name, value in values.items():
        if parameters[name].default is not inspect.Parameter.empty:
            assert value == parameters[name].default, name


def test_the_top_lists_every_setting() -> None:
    values = read(Path("train.yaml"))
    assert {key: values[key] for key in Settings.__dataclass_fields__} == vars(Settings())


@pytest.mark.parametrize("path", GROUP_FILES, ids=str)
def test_every_choice_composes_and_fits(path: Path) -> None:
    group = path.parent.as_posix()
    holder, choice = {
        "model/positions": (["model=transformer"], group),
        "word_vectors": (["task=tagging"], "word_vectors@task.model.word_vectors"),
    }.get(group, ([], group))
    composed = first_job([*holder, f"{choice}={path.stem}"], "train", None)
    with open_dict(composed):
        del composed["hydra"]
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    top = group.partition("/")[0]
    if top in tree:
        assert mistakes(tree[top], top, context=CONTEXT.get(top, ())) == []


@pytest.mark.parametrize("name", sorted(PRIMARY))
def test_every_primary_configuration_composes(name: str) -> None:
    composed = first_job([], name, None)
    assert composed.hydra.output_subdir is None
    assert composed.hydra.run.dir == "."
    assert composed.hydra.help.header.startswith(f"seqlab.{name}: ")
