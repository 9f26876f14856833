"""Useful floating-point operations, those that do enter the products, and the floor of a recurrence."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqlab.layers.linear import multiply
from seqlab.ragged import widths_of

GATES = {"LSTM": 4, "GRU": 3, "minGRU": 2}
LAYERS = 4  # of the Transformer that is measured
HEAD = 64  # width of one of its heads


def recurrent_flops(cell: str, width: int, lengths: Tensor) -> float:
    """Forward and backward of one layer, with the gradient of its input: 24 H (I + H) per token for an LSTM; I = H."""
    return 6.0 * GATES[cell] * width * 2 * width * int(lengths.sum())


def transformer_flops(width: int, lengths: Tensor) -> float:
    """Forward and backward: 6 per parameter of a linear map and token, 12 d per pair of tokens, in every layer."""
    return LAYERS * (6.0 * 12 * width**2 * int(lengths.sum()) + 12.0 * width * int((lengths**2).sum()))


def gemms(shapes: Sequence[tuple[int, int, int]]) -> dict[str, Callable[[], object]]:
    """Products [m, k] x [k, n] as sides, by both libraries torch ships, to take turns with what is measured."""
    sides: dict[str, Callable[[], object]] = {}
    for m, k, n in shapes:
        a, b = torch.randn(m, k), torch.randn(k, n)
        sides[f"GEMM {m} {k} {n} torch"] = lambda a=a, b=b: a @ b  # type: ignore[misc]
        sides[f"GEMM {m} {k} {n} oneDNN"] = lambda a=a, b=b: multiply(a, b)  # type: ignore[misc]
    return sides


def peak_rate(times: dict[str, list[float]]) -> float:
    """P: the best rate of those products, FLOP/s, each by its median."""
    rates = []
    for name, taken in times.items():
        if name.startswith("GEMM"):
            m, k, n = map(int, name.split()[1:4])
            rates.append(2.0 * m * k * n / statistics.median(taken))
    return max(rates)


def _seconds(run: Callable[[], object], times: int = 30) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@lru_cache
def _step_seconds(cell: str, width: int) -> tuple[list[int], list[float]]:
    """Seconds of one recurrent product [b, H] x [H, G H] for b = 1, 2, 4, ..., and never less than reading W takes."""
    weight = torch.randn(width, GATES[cell] * width)
    copied = torch.empty_like(weight)
    reading = _seconds(lambda: copied.copy_(weight)) / 2  # a copy reads and writes
    batches = [2**i for i in range(9)]
    rows = [torch.randn(b, width) for b in batches]
    return batches, [max(_seconds(lambda h=h: multiply(h, weight)), reading) for h in rows]  # type: ignore[misc]


def sequential_floor(cell: str, width: int, lengths: Tensor, peak: float) -> float:
    """Seconds below which no train step of the recurrence can be, at the rates measured for its products.

    Forward and backward each have a product per step that must wait for the step before; the rest runs at the peak.
    """
    widths = widths_of(lengths).numpy()
    one_way = float(np.interp(widths, *_step_seconds(cell, width)).sum())
    waiting = 2 * 2.0 * GATES[cell] * width**2 * int(lengths.sum())
    return 2 * one_way + (recurrent_flops(cell, width, lengths) - waiting) / peak


def product_of(func: Any, args: Any) -> tuple[int, tuple[int, int]] | None:
    """Rows of the left factor and shape of the right one, where a dispatched operator multiplies two matrices.

    The one place that knows which operators do. oneDNN takes the right factor transposed; of a recurrence in machine
    code it is the recurrent product, whose weight comes second, transposed too.
    """
    name = func.overloadpacket.__name__
    if name in ("mm", "addmm", "addmm_"):
        left, right = args[-2:]
        return left.shape[0], (right.shape[0], right.shape[1])
    if name == "_linear_pointwise" or (func.namespace == "seqlab" and name in ("lstm", "gru", "tanh")):
        return args[0].shape[0], (args[1].shape[1], args[1].shape[0])
    return None


def product_flops(func: Any, args: Any) -> int:
    """2 m k n of that product; 0 where there is none."""
    found = product_of(func, args)
    return 2 * found[0] * found[1][0] * found[1][1] if found else 0


class Entering(TorchDispatchMode):
    """Counts the floating-point operations of all products that forward operators are given, padding included.

    Leading rows of matrix products and of recurrent kernels, query-key pairs of attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.flops += product_flops(func, args)
        if name in ("bmm", "baddbmm"):
            left, right = args[-2:]
            self.flops += 2.0 * left.shape[1] * right.numel()
        elif "scaled_dot_product" in name:
            query, keys = args[:2]
            self.flops += 4.0 * query.numel() * keys.shape[2]
        elif name == "mkldnn_rnn_layer":
            self.flops += 2.0 * args[0].shape[0] * args[0].shape[1] * (args[1].numel() + args[2].numel())
        elif name == "attend_compiled":
            query, _, _, lengths, key_lengths = args[:5]
            self.flops += 4.0 * int((lengths * key_lengths).sum()) * query.shape[1] * query.shape[2]
        return func(*args, **(kwargs or {}))


def entering_flops(forward: Callable[[], object]) -> float:
    """Of one forward pass."""
    with Entering() as counter, torch.no_grad():
        forward()
    return counter.flops
