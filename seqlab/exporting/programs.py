"""A program: a module on plain tensors that a format writes to a file, with the names and sizes of its inputs.

Graphs (torch.export, AOTInductor, ONNX) hold no ragged batch, so that they are called by blocks, in two ways:

    equal    tokens [N, L], all of one length: nothing is computed on padding (equal_lengths.py)
    padded   ids [N, L] with mask [N, L], not 0 where there is a token; each sequence begins its row, padding ends it

Models that write read by `padded` or `encode` and continue by `step`, which gets the state, a list of tensors, as it
came. N and L are at least 1; a sequence of `padded` may be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import Dim

BLOCK = ("sequences", "length")  # the axes of tokens, ids, mask and starts


@dataclass(frozen=True)
class Program:
    """A module to be exported.

    name      of its signature: equal, padded, encode or step
    inputs    an example of each by name; lists of tensors come last, and the module gets theirs as `*rest`
    sizes     the names of the axes of each input that may have any size; of a list, of each tensor in it
    outputs   their names
    most      the longest sequence; None: any
    """

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    sizes: dict[str, Any]
    outputs: list[str]
    most: int | None

    @property
    def dynamic_shapes(self) -> dict[str, Any]:
        """The sizes as `torch.export` takes them."""
        dims: dict[str, Any] = {}

        def shape(axes: tuple[str, ...]) -> dict[int, Any]:
            limit = {"max": self.most} if self.most is not None else {}
            for axis in axes:
                dims.setdefault(axis, Dim(axis, min=1, **(limit if axis == "length" else {})))
            return {place: dims[axis] for place, axis in enumerate(axes)}

        plain = {name: shape(axes) for name, axes in self.sizes.items() if not isinstance(axes, list)}
        rest = [shape(axes) for listed in self.sizes.values() if isinstance(listed, list) for axes in listed]
        return {**plain, "rest": tuple(rest)} if rest else plain

    @property
    def example(self) -> tuple[Tensor, ...]:
        """One tensor for each input: two inputs that were the same tensor would silently be one in the graph."""
        plain: list[Tensor] = []
        for given in self.inputs.values():
            plain += given if isinstance(given, list) else [given]
        return tuple(tensor.clone() for tensor in plain)

    @property
    def input_names(self) -> list[str]:
        """A name for each tensor that goes in."""
        names: list[str] = []
        for name, given in self.inputs.items():
            names += [f"{name}_{i}" for i in range(len(given))] if isinstance(given, list) else [name]
        return names

    @property
    def signature(self) -> dict[str, list[str]]:
        """The names of what goes in, and of what comes out, as export.json lists them."""
        return {"inputs": self.input_names, "outputs": self.outputs}
