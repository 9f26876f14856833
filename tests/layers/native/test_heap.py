"""What is free in the heap goes back to the system, now and then."""

from __future__ import annotations

import psutil
import pytest
import torch

from seqlab.layers.native import heap

pytestmark = pytest.mark.skipif(heap._malloc_trim is None, reason="the C library keeps no heap that could be trimmed")


def test_what_lies_between_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [(torch.ones(25_000), torch.ones(100)) for _ in range(1000)]  # 100 KB and 400 bytes, by turns
    between = [small for _, small in held]
    del held
    before = psutil.Process().memory_info().rss
    monkeypatch.setattr(heap, "_last", 0.0)
    heap.trim()
    assert before - psutil.Process().memory_info().rss > 50e6
    assert len(between) == 1000


def test_it_is_done_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[int]()
    monkeypatch.setattr(heap, "_malloc_trim", done.append)
    monkeypatch.setattr(heap, "_last", 0.0)
    for _ in range(3):
        heap.trim()
    assert done == [0]
    monkeypatch.setattr(heap, "_last", heap._last - heap.EVERY_S)
    heap.trim()
    assert done == [0, 0]
