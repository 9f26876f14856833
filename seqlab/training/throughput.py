"""How fast training is, in real tokens and against what the machine could do; and what padding would have cost."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqlab.layers.linear import multiply
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


def gemm_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The most FLOP/s this device reaches in a matrix product, with the threads that torch has now.

    The best of a few products [4 N, N] x [N, 4 N], of the shape of a layer of width N. N doubles from 128 until one
    product takes 2 ms: a tenth of a second on one slow thread, and large enough for an accelerator. Draws from a
    generator of its own, so that a run computes the same with it and without.
    """
    generator = torch.Generator(device).manual_seed(0)
    best, width, fastest = 0.0, 128, 0.0
    while fastest < 2e-3 and width <= 2048:
        x = torch.randn(4 * width, width, device=device, generator=generator).to(dtype)
        fastest = min(_seconds_of_product(x, x.t()) for _ in range(4))
        best = max(best, 2 * (4 * width) ** 2 * width / fastest)
        width *= 2
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # `peak_memory_gb` is about training
    return best


def _seconds_of_product(a: Tensor, b: Tensor) -> float:
    _wait(a.device)
    began = time.perf_counter()
    multiply(a, b)
    _wait(a.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@dataclass
class Throughput:
    """Timings of the steps since the last reading, in seconds; evaluating and saving are not part of a step.

    device, dtype   what computes the products, and in which format
    gemm_peak       FLOP/s of the best product there, see `gemm_peak`
    """

    device: torch.device
    dtype: torch.dtype
    gemm_peak: float
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    waiting: float = 0.0
    working: float = 0.0

    def measure_again(self) -> None:
        """The best product once more, on a host: it may have been busy before. The larger figure counts."""
        if self.device.type == "cpu":
            self.gemm_peak = max(self.gemm_peak, gemm_peak(self.device, self.dtype))

    def metadata(self) -> dict[str, Any]:
        """What the figures were measured on, for run.json."""
        return {
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "gemm_gflops": self.gemm_peak / 1e9,
        }

    def add(self, tokens: int, flops: float, waiting: float, working: float) -> None:
        """One more step: its real tokens, its useful FLOPs, and the times waiting for its batch and working on it."""
        self.steps += 1
        self.tokens += tokens
        self.flops += flops
        self.waiting += waiting
        self.working += working

    def take(self) -> dict[str, float]:
        """The figures of the steps since the last time, and starts anew.

        Rates are over the whole time of a step, waiting for data included. The useful FLOPs are those of
        `SequenceLayer.flops`; their utilization is the share of what the best product would have done meanwhile.
        """
        seconds = self.waiting + self.working
        figures = {
            "tokens_per_s": self.tokens / seconds if seconds else 0.0,
            "step_ms": 1000 * seconds / self.steps if self.steps else 0.0,
            "data_wait_fraction": self.waiting / seconds if seconds else 0.0,
            "useful_gflops": self.flops / seconds / 1e9 if seconds else 0.0,
            "useful_flops_utilization": self.flops / seconds / self.gemm_peak if seconds else 0.0,
            "mem_gb": peak_memory_gb(self.device),
        }
        self.__init__(self.device, self.dtype, self.gemm_peak)  # type: ignore[misc]
        return figures
