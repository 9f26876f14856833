"""From configuration to objects.

A node is a mapping: `_target_`, the dotted name of a class or function, and keyword arguments for it, among which may
be further nodes. With `_partial_: true` it stands for the callable, not for what a call returns. Arguments are checked
against the signature before anything is called, and all mistakes in a tree of nodes are told at once.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seqlab.errors import InputError, did_you_mean

RESERVED = ("_target_", "_partial_")

# The parts of seqlab that a file may name: the classes defined in a package that subclass one of these, by dotted name
# because nothing of it may be imported before it is needed.
PARTS = {
    "seqlab.layers": ("torch.nn.Module",),
    "seqlab.models": ("torch.nn.Module", "seqlab.models.decoding.Decoding"),
    "seqlab.tasks": ("seqlab.tasks.task.Task", "seqlab.tasks.metrics.metric.Metric"),
    "seqlab.text": ("seqlab.text.tokenizer_training.TokenizerTrainer",),
    "seqlab.data.preprocessing": ("seqlab.data.preprocessing.preprocessor.Preprocessor",),
    "seqlab.data.sources": ("seqlab.data.sources.source.Source", "seqlab.data.sources.hub.SplitNames"),
    "seqlab.data.records": ("seqlab.data.records.Columns",),
    "seqlab.training.schedules": ("seqlab.training.schedules.Schedule",),
}
MAKES_OPTIMIZERS = "seqlab.training.optimizers"  # whose functions are parts, too


def instantiate(
    node: Mapping[str, Any],
    key: str,
    /,
    *,
    target: Callable[..., Any] | None = None,
    trust: Collection[str] = (),
    **context: Any,
) -> Any:
    """Build what a node describes.

    Args:
        node: plain dicts, lists and scalars.
        key: where the node stands in the configuration, such as "model"; messages begin with it.
        target: what to call, for a plain section without a `_target_`.
        trust: targets that the user has named, or modules, of which what they define may be a target, and nothing that
            they import. All others must be parts of seqlab (`is_part`), or modules, optimizers or schedulers of torch.
        context: what is found out at run time, such as the size of the vocabulary. Each goes to every node of the tree
            whose signature has an argument of its name, and to no other.

    Raises:
        InputError: the node is wrong, with a line for each mistake; or a target raised ValueError on its arguments.
    """
    tree = _Tree(trust, context)
    part = tree.read(node, key, target)
    if tree.mistakes:
        raise InputError("\n".join(tree.mistakes))
    return part.build(context)


def mistakes(
    node: Mapping[str, Any],
    key: str,
    /,
    *,
    target: Callable[..., Any] | None = None,
    trust: Collection[str] = (),
    context: Collection[str] = (),
) -> list[str]:
    """The lines that `instantiate` would raise; needs only the names of the context, and so can run before it."""
    tree = _Tree(trust, context)
    tree.read(node, key, target)
    return tree.mistakes


Settings = TypeVar("Settings")


def read_settings(target: Callable[..., Settings], values: Mapping[str, Any]) -> Settings:
    """The settings at the top of a configuration, checked like any other section.

    Raises:
        InputError: with a line for each mistake.
    """
    try:
        return instantiate(values, "configuration", target=target)
    except InputError as error:
        raise InputError(str(error).replace("configuration.", "")) from error


@dataclass(frozen=True)
class _Part:
    """A node that has been read: what to call (None: it cannot be had), with which values, parts and context."""

    key: str
    target: Any
    arguments: dict[str, Any]
    context: list[str]
    partial: bool

    def build(self, context: Mapping[str, Any]) -> Any:
        arguments = {name: _built(value, context) for name, value in self.arguments.items()}
        arguments |= {name: context[name] for name in self.context}
        if self.partial:
            return functools.partial(self.target, **arguments)
        try:
            return self.target(**arguments)
        except ValueError as error:  # "width=0: expected ..." is about model.width, anything else about the model
            names_argument = str(error).partition("=")[0].split(".")[0] in self.arguments
            raise InputError(f"{self.key}{'.' if names_argument else ': '}{error}") from error


def _built(value: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(value, _Part):
        return value.build(context)
    if isinstance(value, dict):
        return {name: _built(item, context) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_built(item, context) for item in value)
    return value


@dataclass
class _Tree:
    """Reads nodes and collects what is wrong with them."""

    trust: Collection[str]
    context: Collection[str]
    mistakes: list[str] = field(default_factory=list)

    def read(self, node: Mapping[str, Any], key: str, target: Any = None) -> _Part:
        target = target or self.resolve(node.get("_target_"), key)
        given = {name: self.argument(node[name], f"{key}.{name}") for name in node if name not in RESERVED}
        partial = node.get("_partial_", False)
        if not isinstance(partial, bool):
            self.mistakes.append(f"{key}._partial_: expected bool, got {partial!r}")
        if target is None:
            return _Part(key, None, given, [], bool(partial))

        signature = inspect.signature(target).parameters.values()
        parameters = {p.name: p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        context = [name for name in parameters if name in self.context]
        expected = {
            name: kind for name, kind in type_hints(target).items() if name in parameters and name not in context
        }
        for name, value in given.items():
            where = f"{key}.{name}"
            kind = expected.get(name, Any)
            if isinstance(value, list) and any(get_origin(k) is tuple for k in (kind, *get_args(kind))):
                given[name] = tuple(value)  # neither YAML nor JSON has tuples
            if name in context:
                self.mistakes.append(f"{where}: is found out at run time; drop it with ~{where}")
            elif name in parameters and not fits(given[name], kind):
                got = value.target.__name__ if isinstance(value, _Part) else repr(value)
                self.mistakes.append(f"{where}: expected {told(kind)}, got {got}; change {where}=...")
            elif name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in signature):
                known = [name for name in parameters if name not in context]
                hint = did_you_mean(name, known) or f", which takes {', '.join(known) or 'none'}"
                self.mistakes.append(f"{where}: no argument of {target.__name__}{hint}; drop it with ~{where}")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and not partial and name not in context and name not in given:
                kind = told(expected.get(name, Any))
                self.mistakes.append(f"{key}.{name}: missing, expected {kind}; add +{key}.{name}=...")
        return _Part(key, target, given, context, bool(partial))

    def argument(self, value: Any, key: str) -> Any:
        """The value, with every node in it read."""
        if isinstance(value, Mapping):
            if "_target_" in value:
                return self.read(value, key)
            return {name: self.argument(item, f"{key}.{name}") for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.argument(item, f"{key}.{i}") for i, item in enumerate(value)]
        return value

    def resolve(self, path: Any, key: str) -> Any:
        """The object of that dotted name; None, and a mistake noted, where there is none or it may not be called."""
        if not isinstance(path, str) or not all(name.isidentifier() for name in path.split(".")) or "." not in path:
            self.mistakes.append(f"{key}._target_: expected a dotted name such as my_module.MyClass, got {path!r}")
            return None
        named, modules = path in self.trust, [name for name in self.trust if path.startswith(f"{name}.")]
        # Importing runs code too, so the name is judged before the import and the object after it.
        if not (named or modules or path.startswith(("seqlab.", "torch.nn.", "torch.optim."))):
            return self.refuse(path, key)
        try:
            found = _find(path)
        except _NotFound as error:
            self.mistakes.append(f"{key}._target_={path}: {error}")
            return None
        if not callable(found) or not (named or is_part(found) or any(is_of(found, module) for module in modules)):
            return self.refuse(path, key)
        return found

    def refuse(self, path: str, key: str) -> None:
        self.mistakes.append(
            f"{key}._target_={path}: neither a part of seqlab nor a module, optimizer or scheduler class of torch; "
            f"your own code must be named by you: type {key}._target_={path}, or trust={path.partition('.')[0]}"
        )


def is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


class _NotFound(Exception):
    """Nothing has this name, or its module fails to import."""


def _find(path: str) -> Any:
    names = path.split(".")
    found, depth = None, 0
    for depth in range(len(names) - 1, 0, -1):
        module = ".".join(names[:depth])
        try:
            found = import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise _NotFound(f"importing {module} failed: {error}") from error
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            raise _NotFound(f"importing {module} failed: {type(error).__name__}: {error} ({place})") from error
    else:
        raise _NotFound(f"there is no module {names[0]} here, nor one installed")
    for name in names[depth:]:
        if not hasattr(found, name):
            known = [*vars(found), *(module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ())))]
            raise _NotFound(f"{getattr(found, '__name__', found)} has no {name}{did_you_mean(name, known)}")
        found = getattr(found, name)
    return found


def is_part(found: Any) -> bool:
    """Return whether an object is a part of seqlab (`PARTS`), or a module, optimizer or scheduler class of torch.

    Judges the object, not a name that leads to it: `seqlab.data.corpus.os.system` is still `os.system`. Functions are
    no parts, except those that make an optimizer: one of the others starts the compiler that it is told. Nor are
    classes elsewhere in seqlab: with `instantiate` as a target, a file could trust itself.
    """
    module = getattr(found, "__module__", None) or ""
    if not isinstance(found, type):
        return module == MAKES_OPTIMIZERS and is_of(found, module)
    if module.startswith("seqlab."):
        bases = [base for package, bases in PARTS.items() if is_of(found, package) for base in bases]
        return not inspect.isabstract(found) and any(issubclass(found, _find(base)) for base in bases)
    if module.startswith(("torch.nn.", "torch.optim.")):
        from torch import nn, optim  # has been imported with the target; not before, `--help` must not wait for it

        return issubclass(found, nn.Module | optim.Optimizer | optim.lr_scheduler.LRScheduler)
    return False


def names_part(path: str, packages: Collection[str]) -> bool:
    """Return whether a dotted name is that of a class in one of these packages of seqlab, and the class a part.

    Nothing outside these packages is imported.
    """
    if not path.startswith(tuple(f"{package}." for package in packages)):
        return False
    try:
        found = _find(path)
    except _NotFound:
        return False
    return isinstance(found, type) and path == f"{found.__module__}.{found.__qualname__}" and is_part(found)


def is_of(found: Any, package: str) -> bool:
    """Return whether an object is defined in that module, or in one of that package, under its own name."""
    module = getattr(found, "__module__", None) or ""
    inside = module == package or module.startswith(f"{package}.")
    return inside and vars(sys.modules[module]).get(getattr(found, "__name__", "")) is found


def type_hints(target: Any) -> dict[str, Any]:
    """The types of the target's arguments; none where they cannot be told, as in some classes of torch."""
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except (NameError, TypeError):
        return {}


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value, or a part that has been read, may be passed where `kind` is expected."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or (isinstance(value, _Part) and value.target is None):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in args)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in args)
    if kind is NoneType:
        return value is None
    if kind in (int, float):  # True is an int to Python
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    plain_class = isinstance(origin or kind, type) and origin is not Callable and not is_protocol(kind)
    if isinstance(value, _Part):
        if not plain_class:
            return True
        return not value.partial and (not isinstance(value.target, type) or issubclass(value.target, origin or kind))
    if not plain_class:
        return not (origin is Callable or is_protocol(kind))
    if not isinstance(value, origin or kind) or (origin and isinstance(value, str)):  # a str is no list of str
        return False
    if isinstance(value, dict) and args:
        return all(fits(item, args[1]) for item in value.values())
    if isinstance(value, tuple) and args and args[-1] is not ...:
        return len(value) == len(args) and all(map(fits, value, args))
    if isinstance(value, list | tuple) and args:
        return all(fits(item, args[0]) for item in value)
    return True


def told(kind: Any) -> str:
    """A type, in the words of someone who writes YAML."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(told, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if kind is NoneType:
        return "null"
    if origin is Callable:
        return "a node with _target_ and _partial_: true"
    if isinstance(origin, type):
        items = ", ".join(told(item) for item in args if item is not ...)
        return f"a {'dict' if issubclass(origin, Mapping) else 'list'} of {items}"
    if isinstance(kind, type) and kind.__module__ != "builtins":
        return f"a node with _target_ ({kind.__name__})"
    return kind.__name__ if isinstance(kind, type) else str(kind)
