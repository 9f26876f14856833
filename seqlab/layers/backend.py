"""Which of a layer's two paths runs: the fast one, or the plain one of ordinary operators.

The plain path can be differentiated twice, a debugger can step through it, and exports are made of it. Both compute the
same function; the tests hold them equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch.nn.attention import SDPBackend, sdpa_kernel

_name: ContextVar[str] = ContextVar("seqlab_backend", default="fast")


@contextmanager
def backend(name: Literal["fast", "plain"]) -> Iterator[None]:
    """Make every layer take the named path inside the block.

    Raises:
        ValueError: there is no such path.
    """
    if name not in ("fast", "plain"):
        raise ValueError(f"backend must be 'fast' or 'plain', got {name!r}")
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
    """Return whether layers take the fast path, which is the default."""
    return _name.get() == "fast"
