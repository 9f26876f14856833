"""The configuration: where conf/ lies, and the overrides typed behind a verb.

The overrides are checked before Hydra acts on them, so that all mistakes are told at once: Hydra stops at the first
one that it cannot apply, and advises to put a plus sign before an unknown key, which is wrong for a typo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from seqlab.errors import InputError, did_you_mean

# From 1.4 on Hydra has one behaviour only and warns when it is told which.
VERSION_BASE = {"version_base": "1.3"} if tuple(map(int, hydra.__version__.split(".")[:2])) < (1, 4) else {}


def conf_folder() -> Path:
    """The folder of the configuration: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def check(words: Sequence[str], config_name: str, config_dir: str | None, *, sweep: bool, complete: bool) -> None:
    """Whether these overrides can be applied.

    Args:
        words: the overrides, as typed.
        config_name: the primary configuration, such as "train".
        config_dir: a folder with further configurations, or None.
        sweep: whether a key may have several values, a job for each.
        complete: whether every setting must have a value.

    Raises:
        InputError: some of the overrides are wrong; the message has a line for each.
    """
    search = _search(words, config_dir)
    with hydra.initialize_config_dir(str(conf_folder()), **VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        typed, problems = _parse(words)
        problems += _contradictions(typed)
        problems += [] if sweep else _several_values(typed)

        @cache  # for Hydra reads YAML again for each answer
        def choices(group: str, kind: ObjectType = ObjectType.CONFIG) -> list[str]:
            return loader.get_group_options(group, kind, config_name, search)

        def all_choices() -> dict[str, list[str]]:
            return {group: choices(group) for group in choices("", ObjectType.GROUP)}

        groups = [o for o in typed if "." not in o.key_or_group and choices(o.key_or_group)]
        wrong = {o.key_or_group: lines for o in groups if (lines := _wrong_choices(o, choices(o.key_or_group)))}
        problems += [line for lines in wrong.values() for line in lines]
        # What a wrong choice would have brought is unknown, and so is what was meant by settings inside it.
        settings = [o for o in typed if o not in groups and o.key_or_group.split(".")[0] not in wrong]
        combinations = list(product(*(_lines(o) for o in groups if o.key_or_group not in wrong)))
        found: dict[str, list[str]] = {}  # problem: the combinations of choices that have it
        for combination in combinations:
            composed = hydra.compose(config_name, [*search, *combination], return_hydra_config=True)
            unknown = _unknown(settings, composed, all_choices)
            for problem in unknown + (_missing(settings, composed) if complete and not wrong else []):
                found.setdefault(problem, []).append(" ".join(combination))
        for problem, where in found.items():
            problems.append(problem if len(where) == len(combinations) else f"{problem} where {where[0]}")
        if problems:
            raise InputError("\n".join(problems))


def first_job(words: Sequence[str], config_name: str, config_dir: str | None) -> DictConfig:
    """The configuration of the first job that these overrides describe, with Hydra's own settings in it."""
    with hydra.initialize_config_dir(str(conf_folder()), **VERSION_BASE):
        first = [line for override in _parse(words)[0] for line in _lines(override)[:1]]
        return hydra.compose(config_name, [*_search(words, config_dir), *first], return_hydra_config=True)


def targets(words: Sequence[str]) -> frozenset[str]:
    """Every `_target_` that these overrides name, also inside a dict: `model.cell={_target_: my_module.MyCell}`."""

    def inside(key: str, value: Any) -> Iterator[str]:
        if key == "_target_" and isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from inside(str(name), item)
        elif isinstance(value, list):
            for item in value:
                yield from inside("", item)

    return frozenset(t for o in _parse(words)[0] for t in inside(o.key_or_group.split(".")[-1], o.value()))


def _search(words: Sequence[str], config_dir: str | None) -> list[str]:
    """The overrides that say where else configurations are looked for.

    Raises:
        InputError: there is no such folder.
    """
    if config_dir is None:
        return [word for word in words if word.startswith("hydra.searchpath=")]
    if not Path(config_dir).is_dir():
        raise InputError(f"--config-dir {config_dir}: no such folder")
    return [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).absolute()}')}]"]


def quoted(text: str) -> str:
    """The text as a value that Hydra's grammar takes as it is."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _parse(words: Sequence[str]) -> tuple[list[Override], list[str]]:
    parser = OverridesParser.create(GlobalHydra.instance().config_loader() if GlobalHydra().is_initialized() else None)
    typed, problems = [], []
    for word in words:
        try:
            (override,) = parser.parse_overrides([word])
            if not override.key_or_group:  # Hydra takes it for a choice among the primary configurations
                problems.append(f"{word}: cannot be read as key=value: no key stands before the =")
                continue
            typed.append(override)
        except HydraException:
            key, equals, value = word.partition("=")
            advice = f'; quote the value: "{key}={quoted(value)}"' if equals else ""
            problems.append(f"{word}: cannot be read as key=value{advice}")
    return typed, problems


def _contradictions(typed: list[Override]) -> list[str]:
    lines: dict[tuple[str, str | None], list[str]] = {}
    for o in typed:
        lines.setdefault((o.key_or_group, o.package), []).append(str(o.input_line))
    return [f"{' and '.join(same)}: contradictory; keep one" for same in lines.values() if len(set(same)) > 1]


def _several_values(typed: list[Override]) -> list[str]:
    return [
        f"{o.input_line}: several values; add -m to run a job for each, or write {o.get_key_element()}="
        f"[{o.get_value_string()}] for a list"
        for o in typed
        if o.is_sweep_override()
    ]


def _lines(override: Override) -> list[str]:
    """The override, or for a sweep one for each of its values; none where these cannot be listed."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        return []
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _wrong_choices(override: Override, choices: list[str]) -> list[str]:
    value = override.value()
    names: list[Any]
    if override.is_discrete_sweep():
        names = list(override.sweep_string_iterator()) or [override.get_value_string()]  # a glob that matches none
    else:
        names = value if isinstance(value, list) else [value]
    return [
        f"{override.key_or_group}={name}: no such choice{did_you_mean(name, choices)}; there are {', '.join(choices)}"
        for name in names
        if isinstance(name, str) and name not in choices and "/" not in name
    ]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a plain tree with its value, whole sections too."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}", value
        yield from _flat(value, f"{prefix}{name}.")


def _unknown(
    settings: list[Override], composed: DictConfig, all_choices: Callable[[], dict[str, list[str]]]
) -> list[str]:
    keys = {key for key, _ in _flat(OmegaConf.to_container(composed))}
    own = {key.rpartition(".")[0] for o in settings for key in _typed_keys(o) if key.endswith("._target_")}
    chosen = {override.key_or_group for override in settings}
    problems = []
    for override in settings:
        typed, new = _typed_keys(override), override.is_add() or override.is_force_add()
        if new and typed[0].split(".")[0] in keys:
            keys.update(typed)
        strange = next((key for key in typed if key not in keys), None)
        if strange is None:
            continue
        groups = all_choices()
        if strange.rpartition(".")[0] in own:  # the user's own code has arguments of its own
            hint = f"; if your own code takes it, write +{override.input_line}"
        elif (group := strange.partition(".")[0]) in groups and composed.get(group) is None and group not in chosen:
            word = _typed_for_the_run(settings, group) or f"{group}=NAME, one of {', '.join(groups[group])}"
            hint = f" while no {group}= is chosen: add {word}"
        else:
            hint = _hint(strange, [*groups, *(k for k in keys if k[:6] != "hydra." or strange[:6] == "hydra.")])
        problems.append(f"{override.input_line}: no such setting{hint}")
    return problems


def _typed_for_the_run(settings: list[Override], group: str) -> str | None:
    """The choice that was typed when the run that `run=` names was trained, such as "data=csv"."""
    try:
        run = next(Path(str(o.value())) for o in settings if o.key_or_group == "run")
        typed = json.loads((run / "run.json").read_bytes())["overrides"]
        return next(str(word) for word in typed if str(word).startswith(f"{group}="))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def _typed_keys(override: Override) -> list[str]:
    """Return the key of an override, and those inside its value where that is a dict; a list may hold anything."""
    value = override.value()
    inside = _flat(value if isinstance(value, dict) else {}, f"{override.key_or_group}.")
    return [override.key_or_group, *(key for key, _ in inside if not any(map(str.isdecimal, key.split("."))))]


def _hint(key: str, known: list[str]) -> str:
    namesakes = sorted(k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2])
    if namesakes:
        return f" (did you mean {' or '.join(namesakes)}?)"
    return did_you_mean(key, known) or "; --cfg job shows all there are"


def _missing(settings: list[Override], composed: DictConfig) -> list[str]:
    given = {override.key_or_group for override in settings}
    missing = [
        key
        for key, value in _flat(OmegaConf.to_container(composed))
        if value == "???" and not key.startswith("hydra.") and not any(f"{key}.".startswith(f"{o}.") for o in given)
    ]
    return [f"no value for {', '.join(missing)}: add {' '.join(f'{key}=VALUE' for key in missing)}"] if missing else []
