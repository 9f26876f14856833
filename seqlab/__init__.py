"""seqlab: train recurrent networks and Transformers on ragged text, without computing on padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqlab.inference.predictor import load
    from seqlab.ragged import Layout, Ragged

__version__ = "0.1.0"
__all__ = ["Layout", "Ragged", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`seqlab.Ragged`, `seqlab.Layout` and `seqlab.load`, loaded late: `--help` must not wait for torch."""
    if name in ("Layout", "Ragged"):
        from seqlab import ragged

        return getattr(ragged, name)
    if name == "load":
        from seqlab.inference import predictor

        return predictor.load
    raise AttributeError(f"module 'seqlab' has no attribute {name!r}")
