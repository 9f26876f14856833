"""The batches of the plan, in its order, from wherever one starts, with or without workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples, Rows
from seqlab.data.loader import PlannedLoader
from seqlab.errors import DataError

LENGTHS = np.random.default_rng(0).integers(1, 40, 300).tolist()
MakeTable = Callable[..., datasets.Dataset]


@pytest.fixture
def examples(make_table: MakeTable) -> Examples:
    return Examples(make_table(LENGTHS, on_disk=True))


def equal(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.ids, b.ids)
        and torch.equal(a.num_bytes, b.num_bytes)
        and a.tokens.layout == b.tokens.layout
        and a.targets.layout == b.targets.layout
        and torch.equal(a.tokens.values, b.tokens.values)
        and torch.equal(a.targets.values, b.targets.values)
    )


def test_an_epoch_is_the_plan(examples: Examples) -> None:
    loader = PlannedLoader(examples, 200, pool=4, seed=1)
    for epoch in (0, 1):
        batches = list(loader.batches(epoch))
        plan = loader.plan(epoch)
        assert len(batches) == loader.count(epoch) == len(plan)
        assert [sorted(batch.ids.tolist()) for batch in batches] == [sorted(plan[i]) for i in range(len(plan))]
        assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == list(range(300))
        assert max(batch.tokens.layout.total for batch in batches) <= 200
    assert loader.plan(0).digest != loader.plan(1).digest
    assert loader.plan(0).digest == PlannedLoader(examples, 200, pool=4, seed=1).plan(0).digest


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_inside_an_epoch(workers: int, examples: Examples) -> None:
    whole = list(PlannedLoader(examples, 200, seed=1).batches(3))
    loader = PlannedLoader(examples, 200, seed=1, workers=workers)
    for start in (0, 1, len(whole) - 1, len(whole)):
        rest = list(loader.batches(3, start))
        assert len(rest) == len(whole) - start
        assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_nothing_before_the_start_is_read(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Examples.read

    def noted(self: Examples, indices: np.ndarray) -> Rows:
        read.append(len(indices))
        return original(self, indices)

    monkeypatch.setattr(Examples, "read", noted)
    loader = PlannedLoader(examples, 200, seed=1)
    next(loader.batches(0, start=5))
    assert read == [len(loader.plan(0)[5])]


@pytest.mark.parametrize("prefetch", [1, 4])
def test_workers_change_nothing(prefetch: int, examples: Examples) -> None:
    alone = PlannedLoader(examples, 200, pool=3, seed=1)
    helped = PlannedLoader(examples, 200, pool=3, seed=1, workers=2, prefetch=prefetch)
    for epoch in (0, 1):
        assert all(equal(a, b) for a, b in zip(alone.batches(epoch), helped.batches(epoch), strict=True))


def test_more_workers_than_batches(examples: Examples) -> None:
    assert len(list(PlannedLoader(examples, 10**6, workers=3).batches(0))) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_stay_as_they_are(workers: int, examples: Examples) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(PlannedLoader(examples, 200, seed=1, workers=workers).batches(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_the_first_batches_again_and_again(examples: Examples) -> None:
    loader = PlannedLoader(examples, 200, seed=1, first_batches=2)
    assert loader.count(0) == loader.count(7) == 2
    whole = list(PlannedLoader(examples, 200, seed=1).batches(0))
    for epoch in (0, 7):
        assert all(equal(a, b) for a, b in zip(loader.batches(epoch), whole[:2], strict=True))


def test_without_a_seed_all_epochs_are_one(examples: Examples) -> None:
    loader = PlannedLoader(examples, 200)
    assert loader.plan(0) is loader.plan(5)
    longest = [batch.tokens.layout.longest for batch in loader.batches(2)]
    assert longest == sorted(longest, reverse=True)


class Failing(Examples):
    """Cannot read the example with number 7."""

    def read(self, indices: np.ndarray) -> Rows:
        if 7 in indices:
            raise OSError(5, "Input/output error")
        return super().read(indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_read_says_which_batch(workers: int, make_table: MakeTable) -> None:
    loader = PlannedLoader(Failing(make_table(LENGTHS, on_disk=True)), 200, seed=1, workers=workers)
    plan = loader.plan(0)
    bad = next(i for i in range(len(plan)) if 7 in plan[i])
    batches = loader.batches(0)
    for _ in range(bad):
        next(batches)
    with pytest.raises(DataError, match=rf"reading batch {bad} of epoch 0 failed.*Input/output error"):
        next(batches)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_noticed_at_once(workers: int, make_table: MakeTable) -> None:
    loader = PlannedLoader(Examples(make_table([5000] * 200, on_disk=True)), 50_000, seed=1, workers=workers)
    batches = loader.batches(0)
    next(batches)
    os.kill(active_children()[0].pid or 0, signal.SIGKILL)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"loader worker \d .*exit code -9.*loader\.workers=0"):
        list(batches)
    assert time.perf_counter() - start < 3
    assert active_children() == []


def test_no_worker_outlives_its_epoch(make_table: MakeTable) -> None:
    rows = [5000] * 200  # more than pipes hold, or a worker that is not read from might end by itself
    loader = PlannedLoader(Examples(make_table(rows, on_disk=True)), 50_000, workers=2)
    list(loader.batches(0))
    assert active_children() == []
    batches = loader.batches(0)
    next(batches)
    assert len(active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert active_children() == []


PROGRAM = """
import os, signal, sys
import datasets
from seqlab.data.examples import Examples
from seqlab.data.loader import PlannedLoader

if __name__ == "__main__":
    loader = PlannedLoader(Examples(datasets.Dataset.load_from_disk(sys.argv[1])), 200, workers=2)
    batches = loader.batches(0)
    next(batches), next(batches)  # one from each worker
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.killpg(0, signal.SIGTERM)
    print(2 + len([next(batches) for _ in range(2, loader.count(0) - 1)]))
"""


@pytest.mark.parametrize("way", ["killed", "signal to its group, then the end in the middle of an epoch"])
def test_how_a_program_with_workers_may_end(way: str, examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(tmp_path / "program.py"), str(tmp_path / "table"), way],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,  # to the end of both pipes: so no process that inherited them may stay behind
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert result.stderr == ""
    if way == "killed":
        assert result.returncode == -signal.SIGKILL
    else:  # such a signal is for the process that trains, which may want more batches
        assert result.returncode == 0
        assert int(result.stdout) == PlannedLoader(examples, 200).count(0) - 1
