"""The state that a model carries from one window of a stream to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from seqlab.models.state import State


class CarriedState:
    """The state after the last window that was read of each lane; see seqlab/data/windows.py for lanes and windows.

    Windows are known by their numbers, so that a batch may be read in any parts: each finds what its own lanes left.
    The first window of a lane begins with no state.

    Attributes:
        tensors: "read" [lanes] int64, on the CPU: how many windows of each lane were read; and the parts of the state,
            each [lanes, ...], as "0", "1", ... Filled in place; detached, so that gradients stop between windows.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.tensors: dict[str, Tensor] = {}

    def before(self, ids: Tensor, device: torch.device) -> State | None:
        """Return the state before the windows of these numbers [B].

        Raises:
            ValueError: a window does not follow the last one that was read of its lane.
        """
        lanes, windows = ids % self.lanes, ids // self.lanes
        if not windows.any():
            return None
        read = self.tensors.get("read", torch.zeros(self.lanes, dtype=torch.int64))[lanes]
        if not (windows == read).all() or not windows.all():
            raise ValueError(
                f"windows {windows.tolist()} of lanes {lanes.tolist()} cannot follow: {read.tolist()} were read"
            )
        parts = [self.tensors[str(i)].to(device) for i in range(len(self.tensors) - 1)]
        return State([part[lanes.to(device)] for part in parts])

    def after(self, ids: Tensor, state: State) -> None:
        """Keep the state after these windows."""
        lanes = ids % self.lanes
        self._kept("read", ids)[lanes] = ids // self.lanes + 1
        for i, tensor in enumerate(state.detach().tensors):
            self._kept(str(i), tensor)[lanes.to(tensor.device)] = tensor

    def _kept(self, name: str, like: Tensor) -> Tensor:
        """Return the part of that name, with a row for each lane, on the device of `like`."""
        kept = self.tensors.get(name)
        kept = like.new_zeros(self.lanes, *like.shape[1:]) if kept is None else kept.to(like.device)
        self.tensors[name] = kept
        return kept
