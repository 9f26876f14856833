from __future__ import annotations

import itertools

import pytest
import torch

from seqlab.ragged import Layout
from seqlab.training import throughput
from seqlab.training.throughput import Throughput, gemm_peak, padded_cells, peak_memory_gb, peak_rss_bytes

CPU = torch.device("cpu")


def test_figures_by_hand_and_a_new_start() -> None:
    clocked = Throughput(CPU, torch.bfloat16, gemm_peak=5e9)
    clocked.add(100, 1e9, waiting=0.25, working=0.75)
    clocked.add(300, 3e9, waiting=0.25, working=0.75)
    figures = clocked.take()
    assert figures.pop("mem_gb") == pytest.approx(peak_memory_gb(CPU), rel=0.1)
    assert figures == {
        "tokens_per_s": 200, "step_ms": 1000, "data_wait_fraction": 0.25,
        "useful_gflops": 2, "useful_flops_utilization": 0.4,
    }  # fmt: skip
    assert clocked == Throughput(CPU, torch.bfloat16, gemm_peak=5e9)
    assert set(clocked.take().values()) - {peak_memory_gb(CPU)} == {0}
    facts = {"device": "cpu", "dtype": "bfloat16", "threads": torch.get_num_threads(), "gemm_gflops": 5}
    assert clocked.facts() == facts


@pytest.mark.parametrize(("seconds", "width"), [(1e-3, 2048), (3e-3, 128)])
def test_the_peak_is_that_of_the_best_product(monkeypatch: pytest.MonkeyPatch, seconds: float, width: int) -> None:
    """On a clock on which every product takes as long: the largest is the best, and the first that is slow the last."""
    clock = itertools.count()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock) * seconds)
    monkeypatch.setattr(throughput.torch, "mm", lambda a, b, out: out)
    assert gemm_peak(CPU, torch.float32) == pytest.approx(2 * (4 * width) ** 2 * width / seconds)


def test_measuring_is_short_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    began = throughput.time.perf_counter()
    peaks = [gemm_peak(CPU, dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert throughput.time.perf_counter() - began < 2  # a twentieth of it where nothing else runs
    assert torch.equal(before, torch.get_rng_state())
    assert min(peaks) > 1e8


def test_padded_cells() -> None:
    assert padded_cells(Layout(torch.tensor([1, 7, 7, 3, 0]))) == 35


def test_memory_is_in_sensible_units() -> None:
    assert 20e6 < peak_rss_bytes() < 200e9  # torch alone is more than 20 MB
    assert peak_memory_gb(CPU) == pytest.approx(peak_rss_bytes() / 1e9, rel=0.1)
