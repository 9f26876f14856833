"""Tiny runs keep their recorded losses.

golden/losses.json was written by `python -m pytest tests/test_golden.py --record` with torch 2.13.0, CPU, one thread. A
difference means that something computes otherwise than it did: find out what, and record anew only if that was meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seqlab.training.logging.json_lines import read_points
from typing_words import Outcome, tiny

pytestmark = pytest.mark.usefixtures("one_sample")

GOLDEN = Path(__file__).parent / "golden" / "losses.json"


MODELS = ["lstm", "gru", "tanh", "mingru", "minlstm", "transformer"]


TASKS = {
    "stream": ["task=stream_language_modeling", "form.lanes=7", "form.window=11", "trainer.micro_tokens=40"],
    "masked": ["task=masked_language_modeling", "trainer.micro_tokens=300"],
}


def losses_of(verb: Callable[..., Outcome], model: str, *more: str) -> list[float]:
    words = ["trainer.micro_tokens=300", "batch.max_length=200", *more]
    return losses_with(verb, f"model={model}", *words)


def losses_with(verb: Callable[..., Outcome], *words: str) -> list[float]:
    given = tiny("model.layers=2", "model.dropout=0.1", "trainer.max_steps=12", "optimizer.lr=0.01", *words)
    assert verb("train", *given, "output_dir=run")[0] == 0
    return [point["loss"] for point in read_points(Path("run/metrics.jsonl"))]


@pytest.mark.parametrize("name", [*MODELS, *TASKS])
def test_a_tiny_run_keeps_its_losses(verb: Callable[..., Outcome], name: str, request: pytest.FixtureRequest) -> None:
    losses = losses_with(verb, *TASKS[name]) if name in TASKS else losses_of(verb, name)
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--record"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({**recorded, name: losses}, indent=1) + "\n")
    else:
        assert losses == pytest.approx(recorded[name], rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_in_bfloat16_it_learns_as_much(verb: Callable[..., Outcome], model: str) -> None:
    losses, exact = losses_of(verb, model, "precision=bfloat16"), json.loads(GOLDEN.read_text())[model]
    assert losses == pytest.approx(exact, rel=1e-3)
    assert max(abs(a - b) for a, b in zip(losses, exact, strict=True)) > 1e-6  # float32 repeats to the bit
