"""Linear maps over all rows of a batch: the products in which nearly all of the work is done.

torch multiplies float32 matrices on the CPU by MKL, which is the faster library on Intel's processors, and on others
reaches half the rate of oneDNN, which torch ships too (measured: docs/performance.md). There `linear` asks for the
second by the operator that torch's own compiler puts in; where that is not to be had, under export, autocast
and `backend("plain")` it is `torch.nn.functional.linear`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.backend import is_fast

# Ragged batches have any number of rows. For each, oneDNN and torch's layer above it keep a prepared product, 1024 of
# them by default, which is hundreds of MB. They read this when they first multiply.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "128")

CPU_INFO = Path("/proc/cpuinfo")  # of Linux, where Python does not know the processor
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Linear(nn.Linear):
    """`torch.nn.Linear`, parameters and all, by the faster product."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D']."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for every row: [..., D] and [D', D] to [..., D']."""
    # A compiler knows products, and may not look into what follows; autocast has its own.
    usual = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or x.dim() < 2
    if not usual and has_onednn(x) and is_fast():
        return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
    return F.linear(x, weight, bias)


# For code that computes its own gradients:


def affine(x_TD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b of matrices."""
    product = _product() if has_onednn(x_TD) else None
    return F.linear(x_TD, weight, bias) if product is None else product(x_TD, weight, bias)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a b of two matrices."""
    return affine(a, b.t(), None) if has_onednn(a) else a @ b


def has_onednn(x: Tensor) -> bool:
    """Whether products of tensors such as this one are oneDNN's, which knows no empty ones."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0 and _product() is not None


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """Return the name of the library that multiplies."""
    return "oneDNN" if has_onednn(torch.empty(1, dtype=dtype, device=device)) else "torch's own product"


def over_rows(a_TA: Tensor, b_TB: Tensor) -> Tensor:
    """a^T b, as the gradient of a weight is made: [A, B]. oneDNN copies its left factor; that is the narrower one."""
    if a_TA.shape[1] <= b_TB.shape[1]:
        return multiply(a_TA.t(), b_TB)
    return multiply(b_TB.t(), a_TA).t()


def add_over_rows(sum_AB: Tensor, a_TA: Tensor, b_TB: Tensor) -> None:
    """sum += a^T b, in place. oneDNN's operator writes into no tensor that is there; torch's own adds on the way."""
    if has_onednn(a_TA) or sum_AB.dtype != a_TA.dtype:
        sum_AB += over_rows(a_TA, b_TB)
    else:
        sum_AB.addmm_(a_TA.t(), b_TB)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_TD, weight)
        return affine(x_TD, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (
            multiply(grad, weight) if needed[0] else None,
            over_rows(grad, x_TD) if needed[1] else None,
            grad.sum(0) if needed[2] else None,
        )


def _product() -> Product | None:
    """oneDNN's x W^T + b, where it is the faster."""
    return None if _is_intel() else _onednn()


@cache
def _is_intel() -> bool:
    """Whether MKL is made for this processor."""
    told = platform.processor()
    with suppress(OSError):
        told += CPU_INFO.read_text(encoding="utf-8")
    return "GenuineIntel" in told and torch.backends.mkl.is_available()


@cache
def _onednn() -> Product | None:
    """oneDNN's x W^T + b, if this torch has the operator and it computes that."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise

        def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return operator(x, weight, bias, "none", [], "")

        with torch.device("cpu"):
            x, weight, bias = torch.arange(6.0).view(3, 2), torch.arange(8.0).view(2, 4).t(), torch.arange(4.0)
        return product if torch.equal(product(x, weight, bias), F.linear(x, weight, bias)) else None
    except (AttributeError, RuntimeError):
        return None


_product()  # now, so that no profiler or counter sees it later
