"""The contract of a cell (seqlab/layers/recurrent/cells.py), where any module of the user's own meets it.

Recurrent stacks carry states as `list[Tensor]`, which scripting takes, and which can be selected, joined and detached
tensor by tensor. A cell may keep its state otherwise: as a tensor, tuple, dict, NamedTuple or dataclass, nested freely.
`make_cell`, with which a stack makes every cell, gives it that face; `check_step` tells what a cell did wrong.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from seqlab.layers.recurrent.cells import Cell


def make_cell(make: Callable[[int, int], Any], input_size: int, hidden_size: int) -> Cell:
    """A cell of these sizes whose state is a list of tensors; see `as_lists`.

    Raises:
        ValueError: cells are not made by `make(input_size, hidden_size)`, or what it makes is none.
    """
    try:
        inspect.signature(make).bind(input_size, hidden_size)  # or a TypeError inside it would be taken for this one
    except TypeError as error:
        name = getattr(getattr(make, "func", make), "__name__", make)
        raise ValueError(f"{name} is no cell, which is made by cell(input_size, hidden_size): {error}") from error
    return as_lists(make(input_size, hidden_size))


def as_lists(cell: Any) -> Cell:
    """The cell itself if its state is a list of tensors, and else the cell in an adapter.

    Raises:
        ValueError: there is no `initial_state(batch)`, or it returns something other than tensors [batch, ...]; or the
            state is nested and the cell has an `unroll` of its own, whose state is a list.
    """
    name = type(cell).__name__
    if not hasattr(cell, "initial_state"):
        raise ValueError(f"{name} has no initial_state(batch): see the contract in seqlab/layers/recurrent/cells.py")
    state = cell.initial_state(0)
    flat = isinstance(state, list) and all(isinstance(tensor, Tensor) for tensor in state)
    adapted: Cell = cell if flat else NestedState(cell)
    for tensor in adapted.initial_state(0):
        if tensor.dim() == 0 or tensor.shape[0] != 0:
            raise ValueError(
                f"initial_state(batch) of {name} must return tensors [batch, ...]; "
                f"initial_state(0) gave one of shape {list(tensor.shape)}"
            )
    return adapted


def check_step(cell: Any, hidden_size: int, output_BH: Tensor, before: list[Tensor], after: list[Tensor]) -> None:
    """Whether a step of the cell kept to the contract; a mistake would else show far away, or not at all.

    Raises:
        ValueError: the output is not [batch, hidden_size], or the state's tensors changed in number or shape.
    """
    name = type(cell.cell if isinstance(cell, NestedState) else cell).__name__
    if isinstance(after, Tensor):
        raise ValueError(f"{name} returned a tensor as its state, which began as a list: return list[Tensor]")
    if len(after) != len(before):
        raise ValueError(f"{name} got {len(before)} state tensors and returned {len(after)}: their number must stay")
    for old, new in zip(before, after, strict=True):
        if new.shape != old.shape:
            raise ValueError(
                f"{name} got a state tensor of shape {list(old.shape)} and returned one of shape {list(new.shape)}: "
                "a state keeps its shape, [batch, ...]"
            )
    expected = [before[0].shape[0] if before else output_BH.shape[0], hidden_size]
    if list(output_BH.shape) != expected:
        raise ValueError(
            f"{name} returned an output of shape {list(output_BH.shape)} where [batch, hidden_size] is {expected}"
        )


class NestedState(nn.Module):
    """A cell of nested state, as a cell whose state is the list of the tensors in it. In eager mode only."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell
        state = cell.initial_state(0)
        self.kind = f"{type(cell).__name__} keeps its state as {type(state).__name__}"
        if hasattr(cell, "unroll"):
            raise ValueError(f"{self.kind} and has an unroll of its own, which wants list[Tensor] throughout")
        self.form = _mapped(state, lambda _: None)  # the nesting alone, without its tensors

    def initial_state(self, batch: int) -> list[Tensor]:
        return self.flat(self.cell.initial_state(batch))

    def forward(self, x_BD: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        tensors = iter(state)
        output_BH, after = self.cell(x_BD, _mapped(self.form, lambda _: next(tensors)))
        return output_BH, self.flat(after)

    def flat(self, state: Any) -> list[Tensor]:
        """The tensors of a state, which must be nested as the initial one is."""
        return list(_tensors(state, self.form, "state"))

    def __getattr__(self, name: str) -> Any:
        """What else the cell offers, such as `project`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # what the cell says of itself, such as how it is copied, is not said of this
                raise
            return getattr(super().__getattr__("cell"), name)


def _parts(state: Any) -> dict[Any, Any] | None:
    """The parts of one level of nesting by index, key or field; None for what is not nested."""
    if isinstance(state, Mapping):
        return dict(state)
    if isinstance(state, tuple | list):
        return dict(enumerate(state))
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return None


def _mapped(state: Any, function: Callable[[Any], Any]) -> Any:
    """The same nesting with function(leaf) in place of each leaf."""
    parts = _parts(state)
    if parts is None:
        return function(state)
    mapped = {key: _mapped(part, function) for key, part in parts.items()}
    if isinstance(state, Mapping):
        return type(state)(mapped)  # type: ignore[call-arg]
    if dataclasses.is_dataclass(state):
        return type(state)(**mapped)  # type: ignore[misc]
    if hasattr(state, "_fields"):  # a NamedTuple takes its parts one by one
        return type(state)(*mapped.values())
    return type(state)(mapped.values())


def _tensors(state: Any, form: Any, where: str) -> Iterator[Tensor]:
    """The leaves of `state` in the order of `form`."""
    parts, forms = _parts(state), _parts(form)
    if forms is None:
        if not isinstance(state, Tensor):
            raise ValueError(f"the cell's {where} must be a tensor, got {type(state).__name__}")
        yield state
        return
    if type(state) is not type(form) or parts is None or parts.keys() != forms.keys():
        raise ValueError(
            f"the cell's {where} must stay nested as initial_state(batch) nests it: {_shown(form)}, got {_shown(state)}"
        )
    for key, inner in forms.items():
        yield from _tensors(parts[key], inner, f"{where}[{key!r}]")


def _shown(state: Any) -> str:
    """A nesting in words, such as tuple(0, 1)."""
    parts = _parts(state)
    return type(state).__name__ + ("" if parts is None else f"({', '.join(map(str, parts))})")
