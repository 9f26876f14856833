"""FLOPs of products, counted one by one as torch computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.layers.backend import backend


class Counter(TorchDispatchMode):
    """2 m n k for every product, forward and backward; the gradient of a matrix times a vector is an outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
        elif name == "mul" and all(isinstance(x, Tensor) for x in args):
            left, right = args
            if left.dim() == 2 and left.shape[1] == 1 and right.dim() == 1:
                self.flops += 2 * left.numel() * right.numel()
        else:
            assert "attention" not in name, "a fused kernel hides its products"
        return func(*args, **(kwargs or {}))


def counted(compute: Callable[[], Tensor]) -> int:
    """FLOPs of the products in a scalar and its gradients."""
    with Counter() as counter, backend("plain"):
        compute().backward()
    return counter.flops
