"""The requirements of a format: packages, a torch that it was tried with, and a model that it can hold."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from seqlab.errors import InputError

# At least, and below: torch gives TorchScript up, and the graphs have its operator `scan`, which is not yet public.
TRIED = {"torchscript": ((2, 10), (2, 14)), **dict.fromkeys(("pt2", "aoti", "onnx"), ((2, 13), (2, 14)))}
PYTHON_BEYOND = (3, 14)
ONNX_PACKAGES = ("onnxruntime", "onnxscript")  # torch's exporter wants the latter


class UnsuitedError(InputError):
    """A format cannot hold this model; another may."""


def require(name: str) -> None:
    """Raise `InputError` if a format was not tried with this torch or Python, or a package is not there."""
    if not _is_tried(name):
        low, high = (".".join(map(str, version)) for version in TRIED[name])
        raise InputError(
            f"format={name} needs torch of at least {low} and below {high}, and Python below 3.14: it rests on parts "
            f"of torch that are not to stay as they are; here are torch {torch.__version__} and Python "
            f"{platform.python_version()}. Install others{_or_choose(filter(_is_tried, TRIED))}"
        )
    if name == "onnx" and (missing := [package for package in ONNX_PACKAGES if find_spec(package) is None]):
        raise InputError(f"format=onnx needs packages that are not there ({', '.join(missing)}): install seqlab[onnx]")


@contextmanager
def blaming(module: nn.Module, what: str) -> Iterator[None]:
    """Turn an error of an exporter into a refusal if a class of the user's own is involved; else it is our defect.

    Args:
        what: "torch.export cannot make a graph of padded".

    Raises:
        UnsuitedError: it names these classes, with the reason; or we knew.
    """
    try:
        yield
    except InputError as error:
        raise UnsuitedError(str(error)) from error
    except Exception as error:  # exporters have no class of their own for what they cannot do
        if not (names := foreign(module)):
            raise
        raise UnsuitedError(f"{what}, with {names} in it: {reason(error)}") from error


def foreign(module: nn.Module) -> str:
    """Return the names of the classes of the user's own among the parts of a module; "" if there are none."""
    strange = [type(part) for part in module.modules() if not type(part).__module__.startswith(("seqlab.", "torch."))]
    return " or ".join(dict.fromkeys(f"{kind.__module__}.{kind.__qualname__}" for kind in strange))


def reason(error: Exception) -> str:
    """Return the first line of the message of an error, or else its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_tried(name: str) -> bool:
    low, high = TRIED[name]
    return low <= torch.__version__ < high and sys.version_info < PYTHON_BEYOND  # type: ignore[operator]


def _or_choose(names: Iterator[str]) -> str:
    others = [f"format={name}" for name in names]
    return f", or choose {' or '.join(others)}" if others else ""
