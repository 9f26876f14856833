from __future__ import annotations

import pytest
import torch

from seqlab.ragged import Layout
from seqlab.training.throughput import Throughput, padded_cells, peak_memory_gb, peak_rss_bytes


def test_figures_by_hand_and_a_new_start() -> None:
    throughput = Throughput()
    throughput.add(100, waiting=0.25, working=0.75)
    throughput.add(300, waiting=0.25, working=0.75)
    assert throughput.take() == {"tokens_per_s": 200, "step_ms": 1000, "data_wait_fraction": 0.25}
    assert throughput == Throughput()
    assert throughput.take() == {"tokens_per_s": 0, "step_ms": 0, "data_wait_fraction": 0}


def test_padded_cells() -> None:
    assert padded_cells(Layout(torch.tensor([1, 7, 7, 3, 0]))) == 35


def test_memory_is_in_sensible_units() -> None:
    assert 20e6 < peak_rss_bytes() < 200e9  # torch alone is more than 20 MB
    assert peak_memory_gb(torch.device("cpu")) == pytest.approx(peak_rss_bytes() / 1e9, rel=0.1)
