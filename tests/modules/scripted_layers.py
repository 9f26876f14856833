"""Layers alone, compiled by TorchScript as they are inside the signature of a model."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn

from seqlab.exporting.scripted import plain_functions, to_scriptable

METHODS = ("core", "ponder", "remember", "scores", "probabilities", "decode")


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """Compile the methods of a layer, which a signature would call."""
    layer = to_scriptable(module)
    methods = {name: exported(getattr(type(layer), name)) for name in METHODS if hasattr(layer, name)}
    kind = type(layer)
    layer.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})
    with pytest.warns(DeprecationWarning, match="torch.jit.script"), plain_functions():
        return torch.jit.script(layer)


def exported(method: Any) -> Any:
    """A copy of a method that TorchScript compiles though nothing calls it."""
    same = FunctionType(method.__code__, method.__globals__, method.__name__, method.__defaults__, method.__closure__)
    same.__annotations__ = method.__annotations__
    return torch.jit.export(same)
