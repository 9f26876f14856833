"""Tiny runs keep their recorded losses.

golden/losses.json was written by `python -m pytest tests/test_golden.py --record` with torch 2.13.0, CPU, one thread. A
difference means that something computes otherwise than it did: find out what, and record anew only if that was meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_words import Outcome, tiny

from seqlab.training.metrics_log import read_points

GOLDEN = Path(__file__).parent / "golden" / "losses.json"


@pytest.mark.parametrize("model", ["lstm", "gru", "tanh", "mingru", "minlstm", "transformer"])
def test_a_tiny_run_keeps_its_losses(verb: Callable[..., Outcome], model: str, request: pytest.FixtureRequest) -> None:
    words = tiny(f"model={model}", "model.layers=2", "model.dropout=0.1", "trainer.max_steps=12", "optimizer.lr=0.01")
    assert verb("train", *words, "trainer.micro_tokens=300", "batch.max_length=200", "output_dir=run")[0] == 0
    losses = [point["loss"] for point in read_points(Path("run/metrics.jsonl"))]
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--record"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({**recorded, model: losses}, indent=1) + "\n")
    else:
        assert losses == pytest.approx(recorded[model], rel=1e-4)
