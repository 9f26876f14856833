"""How fast training is, counted in real tokens, and what a padded batch would have cost."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import torch

from seqlab.ragged import Layout


def padded_cells(layout: Layout) -> int:
    """B * S: the places this batch would take if every sequence were padded to the longest."""
    return len(layout) * layout.longest


def peak_rss_bytes() -> int:
    """The most memory this process has held since it started (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_memory_gb(device: torch.device) -> float:
    """The most memory held by tensors of a CUDA device, or by the process where it computes on the host; 10^9 bytes."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()
    return peak / 1e9


@dataclass
class Throughput:
    """Timings of the steps since the last reading, in seconds; evaluating and saving are not part of a step."""

    steps: int = 0
    tokens: int = 0
    waiting: float = 0.0
    working: float = 0.0

    def add(self, tokens: int, waiting: float, working: float) -> None:
        """One more step: its real tokens, the time spent waiting for its batch, and the time spent on it."""
        self.steps += 1
        self.tokens += tokens
        self.waiting += waiting
        self.working += working

    def take(self) -> dict[str, float]:
        """Real tokens per second, milliseconds per step, fraction of the time waiting for data; and starts anew."""
        seconds = self.waiting + self.working
        figures = {
            "tokens_per_s": self.tokens / seconds if seconds else 0.0,
            "step_ms": 1000 * seconds / self.steps if self.steps else 0.0,
            "data_wait_fraction": self.waiting / seconds if seconds else 0.0,
        }
        self.__init__()  # type: ignore[misc]
        return figures
