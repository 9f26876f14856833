"""Models as TorchScript compiles them: the ragged form, by ordinary operators.

The modules that train are written in the part of Python that TorchScript compiles, but for three things:

    fast paths      modules and functions take their plain path
    Ragged          TorchScript does not know it, so that methods which take it are left out; `core` stays
    checks          of states and cells, and whoever watches attention, are left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.exporting.exportable import Classes, Model, exportable
from seqlab.layers.attention.attend import attend, attend_plain
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention
from seqlab.layers.linear import linear
from seqlab.layers.pooling import AttentionPooling
from seqlab.layers.positions import LearnedPositions, places
from seqlab.layers.recurrent.stack import Recurrence, RecurrentStack
from seqlab.layers.recurrent.steps import permute
from seqlab.layers.transformer import TransformerBlock
from seqlab.ragged import rows_of


class ScriptedRecurrence(Recurrence):
    """A recurrence that calls its cell step by step."""

    def forward(self, x_TD: Tensor, lengths: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return self.plain(x_TD, lengths, state)

    def check(self, output_BH: Tensor, before: list[Tensor], after: list[Tensor]) -> None:
        pass


class ScriptedRecurrentStack(RecurrentStack):
    """Recurrent layers that believe their state."""

    def check(self, state: list[Tensor], batch: int) -> None:
        pass


class ScriptedTransformerBlock(TransformerBlock):
    """A block that is neither compiled by torch.compile nor checkpointed."""

    def core(
        self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        return self.parts(values, lengths, state, memory)


class ScriptedCrossAttention(CrossAttention):
    """Attention that nobody watches."""

    def observe(self, q_THK: Tensor, lengths: Tensor, memory: list[Tensor]) -> None:
        pass


class ScriptedGlobalAttention(GlobalAttention):
    """Attention that nobody watches."""

    def observe(self, q_T1K: Tensor, lengths: Tensor, memory: list[Tensor]) -> None:
        pass


class ScriptedAttentionPooling(AttentionPooling):
    """Pooling that nobody watches."""

    def observe(self, shares_T: Tensor, lengths: Tensor) -> None:
        pass


class ScriptedLearnedPositions(LearnedPositions):
    """Learned positions, on any device."""

    def embed(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        if positions_T.numel() > 0:
            self.require(int(positions_T.max()) + 1)
        return x_TD + self.table[positions_T]


SCRIPTED: Classes = {
    Recurrence: ScriptedRecurrence,
    RecurrentStack: ScriptedRecurrentStack,
    TransformerBlock: ScriptedTransformerBlock,
    CrossAttention: ScriptedCrossAttention,
    GlobalAttention: ScriptedGlobalAttention,
    AttentionPooling: ScriptedAttentionPooling,
    LearnedPositions: ScriptedLearnedPositions,
}


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `linear` by torch's own product."""
    return F.linear(x, weight, bias)


def plain_permute(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Compute `permute` without a gradient of its own."""
    return x.index_select(0, index)


def plain_places(starts: Tensor | None, lengths: Tensor, values_TD: Tensor) -> Tensor:
    """Compute `places` where no graph is being made."""
    return rows_of(torch.zeros_like(lengths) if starts is None else starts, lengths).to(values_TD.device)


# The functions whose fast path TorchScript cannot read, and what it compiles in their place.
PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    attend: attend_plain,
    linear: plain_linear,
    permute: plain_permute,
    places: plain_places,
}


def to_scriptable(model: Model) -> Model:
    """Return a copy of a model, or of a layer, to be compiled inside `plain_functions()`."""
    model = exportable(model, SCRIPTED)
    for module in model.modules():
        module.__class__ = without_ragged(type(module))
    return model


# TorchScript compiles a class once, however many modules have it.
_WITHOUT_RAGGED: dict[type[nn.Module], type[nn.Module]] = {}


@contextmanager
def plain_functions() -> Iterator[None]:
    """Make `torch.jit.script` compile the plain twins of PLAIN inside the block."""
    for function, plain in PLAIN.items():
        function.__prepare_scriptable__ = lambda plain=plain: plain  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for function in PLAIN:
            del function.__prepare_scriptable__  # type: ignore[attr-defined]


def without_ragged(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass that TorchScript takes: without `forward` of Ragged, properties, and types of attributes."""
    if kind.__module__.startswith("torch."):
        return kind
    if kind in _WITHOUT_RAGGED:
        return _WITHOUT_RAGGED[kind]
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__annotations__": {
            "training": bool
        },  # were there none, TorchScript would take those of the base at their word
        "__jit_unused_properties__": [name for name in dir(kind) if isinstance(getattr(kind, name, None), property)],
    }
    if any("Ragged" in str(hint) for hint in getattr(kind.forward, "__annotations__", {}).values()):
        members["forward"] = torch.jit.unused(_forward)
    _WITHOUT_RAGGED[kind] = type(kind.__name__, (kind,), members)
    return _WITHOUT_RAGGED[kind]


def _forward(self: Any) -> None:
    raise NotImplementedError("an exported model is called by its signature")
