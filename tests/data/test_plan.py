"""Every example once, no batch over budget, full batches; the same numbers for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqlab.data.plan import Plan, make_plan

LOG_NORMAL = np.clip(np.random.default_rng(0).lognormal(3.0, 0.8, 20_000), 1, 1024).astype(np.int64)  # mean 27


def fills(plan: Plan, lengths: np.ndarray) -> np.ndarray:
    return np.array([lengths[plan[i]].sum() for i in range(len(plan))])


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50) | st.sampled_from([0, 1, 7, 50]), max_size=80),
    spare=st.integers(0, 100),
    pool=st.integers(1, 5),
    seed=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 3),
)
@example(lengths=[0, 0, 0], spare=0, pool=2, seed=1, epoch=0)
@example(lengths=[0, 5, 0, 5], spare=0, pool=1, seed=None, epoch=0)
@example(lengths=[6, 6, 6, 6], spare=4, pool=3, seed=1, epoch=0)
def test_each_example_once_and_a_hard_cap(
    lengths: list[int], spare: int, pool: int, seed: int | None, epoch: int
) -> None:
    tokens = max([*lengths, 1]) + spare
    plan = make_plan(np.array(lengths, dtype=np.int64), tokens, pool, seed, epoch)
    assert sorted(plan.order.tolist()) == list(range(len(lengths)))
    assert (plan.order.dtype, plan.offsets.dtype) == (np.int64, np.int64)
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == len(lengths)
    totals = fills(plan, np.array(lengths, dtype=np.int64))
    assert (totals <= tokens).all()
    if any(lengths):
        assert (totals > 0).all()  # no batch of nothing
    assert (np.diff(plan.offsets) > 0).all()


@pytest.mark.parametrize(("pool", "seed"), [(50, 1), (10, 2), (2, 3), (1, 1), (50, None)])
def test_batches_are_full(pool: int, seed: int | None) -> None:
    totals = fills(make_plan(LOG_NORMAL, 4096, pool, seed, 0), LOG_NORMAL)
    assert totals.max() <= 4096
    not_full = totals < 0.98 * 4096
    if pool > 1:
        assert not_full.sum() <= 1  # the last of the epoch
        assert totals.mean() / 4096 > 0.985
    else:
        assert not_full.mean() < 0.4


def test_pools_bring_similar_lengths_together() -> None:
    def spread(pool: int) -> float:
        plan = make_plan(LOG_NORMAL, 4096, pool, 1, 0)
        return float(np.mean([LOG_NORMAL[plan[i]].std() for i in range(len(plan))]))

    assert spread(50) < 0.35 * spread(1)


def test_pools_do_not_sort_the_epoch() -> None:
    plan = make_plan(LOG_NORMAL, 4096, 10, 1, 0)
    means = np.array([LOG_NORMAL[plan[i]].mean() for i in range(len(plan))])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.25  # batches come in random order
    together = [make_plan(LOG_NORMAL, 4096, 10, seed, 0) for seed in (1, 2)]
    partners = [set(plan[i].tolist()) for plan in together for i in range(len(plan)) if 0 in plan[i]]
    assert len(partners[0] & partners[1]) < 0.3 * len(partners[0])


def test_best_fit_by_hand() -> None:
    lengths = np.array([2, 3, 3, 4, 7, 8])
    plan = make_plan(lengths, 10, 50, None, 0)
    assert [lengths[plan[i]].tolist() for i in range(len(plan))] == [[8, 2], [7, 3], [4, 3]]


def test_seed_and_epoch_decide() -> None:
    def digest(seed: int | None, epoch: int) -> str:
        return make_plan(LOG_NORMAL[:500], 1024, 5, seed, epoch).digest

    assert digest(1, 0) == digest(1, 0)
    assert len({digest(1, 0), digest(1, 1), digest(2, 0), digest(2, 1), digest(None, 0)}) == 5
    assert digest(None, 0) == digest(None, 7)


def test_the_numbers_stay_what_they_are() -> None:
    # Recorded with NumPy 2.4.6 when the plan was written. Should they change, no stored run can be continued.
    plan = make_plan(np.arange(1, 21), 40, 2, 5, 1)
    recorded = [[13, 12, 11], [18, 17, 2], [5, 4, 3], [10, 9, 8, 6, 1, 0], [19, 15], [16, 14, 7]]
    assert [plan[i].tolist() for i in range(len(plan))] == recorded


def test_evaluation_is_longest_first_and_in_order() -> None:
    plan = make_plan(LOG_NORMAL, 4096, 50, None, 0)
    longest = [int(LOG_NORMAL[plan[i]].max()) for i in range(len(plan))]
    assert longest == sorted(longest, reverse=True)


def test_empty_examples_are_spread() -> None:
    lengths = np.array([0] * 50 + [10] * 20)
    for seed, pool in ((1, 5), (1, 1), (None, 5)):
        plan = make_plan(lengths, 20, pool, seed, 0)
        assert len(plan) == 10
        assert {int((lengths[plan[i]] == 0).sum()) for i in range(10)} == {5}


def test_the_first_batches() -> None:
    plan = make_plan(LOG_NORMAL, 4096, 5, 1, 0)
    first = plan.first(2)
    assert len(first) == 2
    assert [first[i].tolist() for i in range(2)] == [plan[i].tolist() for i in range(2)]
    assert plan.first(10**6).digest == plan.digest
    assert first.digest != plan.digest


def test_batches_outside_the_plan() -> None:
    plan = make_plan(LOG_NORMAL, 4096, 5, 1, 0)
    for number in (-1, len(plan)):
        with pytest.raises(IndexError):
            plan[number]


@pytest.mark.parametrize(
    ("lengths", "tokens", "pool"), [([5, 11], 10, 2), ([-1], 10, 2), ([3], 10, 0), ([1], 0, 1)], ids=str
)
def test_what_cannot_be_planned(lengths: list[int], tokens: int, pool: int) -> None:
    with pytest.raises(ValueError, match=r"lengths must be|pool must be"):
        make_plan(np.array(lengths), tokens, pool, 1, 0)


def test_a_million_lengths_in_a_second() -> None:
    import time

    lengths = np.tile(LOG_NORMAL, 50)
    start = time.perf_counter()
    make_plan(lengths, 16384, 50, 1, 0)
    assert time.perf_counter() - start < 1.5
