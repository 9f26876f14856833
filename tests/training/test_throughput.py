from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
    metadata = {"device": "cpu", "dtype": "bfloat16", "threads": torch.get_num_threads(), "gemm_gflops": 5}
    assert clocked.metadata() == metadata


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [
        ({128: 1, 256: 1, 512: 1, 1024: 1, 2048: 1}, 2048),  # as long for every width: the largest does most
        ({128: 0.1, 256: 0.2, 512: 1, 1024: 1.9, 2048: 90}, 1024),  # the last need not be the best
        ({128: 0.1, 256: 3}, 128),  # one that is slow is the last
    ],
)
def test_the_peak_is_that_of_the_best_product(
    monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float], best: int
) -> None:
    now = [0.0]

    def product(a: Tensor, b: Tensor) -> None:
        assert (a.shape[0], *b.shape) == (4 * a.shape[1], a.shape[1], 4 * a.shape[1])
        now[0] += milliseconds[a.shape[1]] / 1000

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(throughput, "multiply", product)
    expected = 2 * (4 * best) ** 2 * best / milliseconds[best] * 1000
    assert gemm_peak(CPU, torch.float32) == pytest.approx(expected)


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


def test_a_busy_start_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Throughput(CPU, torch.float32, gemm_peak=3e9)
    for measured, kept in ((2e9, 3e9), (7e9, 7e9), (5e9, 7e9)):
        monkeypatch.setattr(throughput, "gemm_peak", lambda device, dtype, measured=measured: measured)
        clocked.measure_again()
        assert clocked.gemm_peak == kept
