"""Which of a layer's two paths runs: the fast one, or the plain one of ordinary operators.

The plain path is what scripting compiles, what can be differentiated twice and what a debugger can step through.
Both compute the same function; the tests hold them equal. "onnx" is the plain path while a graph is exported to ONNX,
whose own operators then stand for recurrences (operators.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch.nn.attention import SDPBackend, sdpa_kernel

_name: ContextVar[str] = ContextVar("seqlab_backend", default="fast")


@contextmanager
def backend(name: Literal["fast", "plain", "onnx"]) -> Iterator[None]:
    """Inside the block, every layer takes the named path.

    Raises:
        ValueError: there is no such path.
    """
    if name not in ("fast", "plain", "onnx"):
        raise ValueError(f"backend must be 'fast', 'plain' or 'onnx', got {name!r}")
    token = _name.set(name)
    try:
        if name == "plain":
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                yield
        else:
            yield
    finally:
        _name.reset(token)


def is_fast() -> bool:
    """Whether the fast path was asked for, which is the default."""
    return _name.get() == "fast"


def is_onnx() -> bool:
    """Whether a graph is being made for ONNX."""
    return _name.get() == "onnx"
