"""Copies of a model in which some modules have another class: the same weights, in the form that an export needs.

The modules that train know ragged batches alone. A format that needs another form of some of them brings a subclass of
each, which overrides what differs. Here such subclasses take the places of the classes, as torch's own parametrizations
do: containers need no twin, parameters keep their names, and whatever calls a module calls its export form.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Classes = Mapping[type[nn.Module], type[nn.Module]]


def exportable(model: Model, classes: Classes) -> Model:
    """Return a copy of a model, in evaluation mode, whose modules have the export form of their class.

    Args:
        model: stays as it is.
        classes: the export form of a class, which is a subclass of it. It also serves the subclasses of that class.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        module.__class__ = export_class(type(module), classes)
    return model


def export_class(kind: type[nn.Module], classes: Classes) -> type[nn.Module]:
    """Return the export form of a class; the class itself where it has none."""
    form = next((classes[base] for base in kind.__mro__ if base in classes), None)
    if form is None:
        return kind
    if issubclass(form, kind):
        return form
    return type(kind.__name__, (form, kind), {"__module__": kind.__module__})  # of a subclass of the user's own
