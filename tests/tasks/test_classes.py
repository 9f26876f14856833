"""Figures of classes: those of scikit-learn 1.9.1 and of their definitions, however batched."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqlab.ragged import IGNORED, Ragged
from seqlab.tasks.metrics.calibration import Calibration
from seqlab.tasks.metrics.classes import Confusion, LabelSets
from seqlab.tasks.metrics.regression import Regression
from seqlab.tasks.metrics.spans import SpanScores
from seqlab.tasks.metrics.text import Bleu, ChrF, ExactMatch

LABELS = ("a", "b", "c", "d", "e")
confusion = Confusion(LABELS)


def draw(rows: int, seed: int, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predicted_T, targets_T = torch.randint(len(LABELS), (2, rows), generator=generator)
    return predicted_T, targets_T.masked_fill(torch.rand(rows, generator=generator) < ignored, IGNORED)


def adds_up(tally: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor, cut: int) -> bool:
    return torch.equal(tally(one, other), tally(one[:cut], other[:cut]) + tally(one[cut:], other[cut:]))


def f1(correct: int, predicted: int, there: int) -> float:
    return 2 * correct / (predicted + there) if predicted + there else math.nan


@given(
    rows=st.integers(0, 40), ignored=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99), cut=st.integers(0, 40)
)
def test_a_confusion_says_what_its_definitions_say(rows: int, ignored: float, seed: int, cut: int) -> None:
    predicted_T, targets_T = draw(rows, seed, ignored)
    pairs = [pair for pair in zip(predicted_T.tolist(), targets_T.tolist(), strict=True) if pair[1] != IGNORED]
    tally = confusion.tally(predicted_T, targets_T)
    assert tally.tolist() == [[pairs.count((taken, of)) for taken in range(5)] for of in range(5)]
    assert adds_up(confusion.tally, predicted_T, targets_T, cut)

    each = [f1(pairs.count((k, k)), sum(p == k for p, _ in pairs), sum(t == k for _, t in pairs)) for k in range(5)]
    known = [value for value in each if not math.isnan(value)]
    right = sum(p == t for p, t in pairs)
    found = confusion.read(tally)
    assert list(found) == ["accuracy", "macro_f1", "micro_f1", "mcc"]
    assert found["accuracy"] == pytest.approx(right / len(pairs) if pairs else math.nan, nan_ok=True)
    assert found["macro_f1"] == pytest.approx(sum(known) / len(known) if known else math.nan, nan_ok=True)
    assert found["micro_f1"] == pytest.approx(found["accuracy"], nan_ok=True)


def correlation(predicted: Tensor, targets: Tensor) -> float:
    """Gorodkin 2004: the covariance of one-hot rows, summed over classes, over the root of their variances."""
    x, y = (torch.nn.functional.one_hot(classes, len(LABELS)).double() for classes in (predicted, targets))
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt())


@given(rows=st.integers(2, 40), seed=st.integers(0, 99))
def test_mcc_is_a_correlation_of_one_hot_rows(rows: int, seed: int) -> None:
    predicted_T, targets_T = draw(rows, seed)
    predicted_T[0], predicted_T[1], targets_T[0], targets_T[1] = 0, 1, 0, 1
    found = confusion.read(confusion.tally(predicted_T, targets_T))["mcc"]
    assert found == pytest.approx(correlation(predicted_T, targets_T), abs=1e-12)


def test_a_confusion_as_scikit_learn_sees_it() -> None:
    targets_T = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    predicted_T = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0, 2, 1])
    metric = Confusion(LABELS, negative=("a",))
    tally = metric.tally(predicted_T, targets_T)
    expected = {
        "accuracy": 0.6,
        "macro_f1": 0.45416666666666666,
        "micro_f1": 0.5714285714285714,  # f1_score(average="micro", labels=[1, 2, 3])
        "mcc": 0.42665516759396227,
    }
    assert metric.read(tally) == pytest.approx(expected, rel=1e-12)
    assert confusion.read(confusion.tally(torch.zeros(3).long(), torch.tensor([0, 0, 1])))["mcc"] == 0


@given(rows=st.integers(0, 12), seed=st.integers(0, 99), cut=st.integers(0, 12))
def test_sets_of_labels_add_up_to_their_definitions(rows: int, seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted_BC, targets_BC = torch.rand(2, rows, len(LABELS), generator=generator) < 0.4
    metric = LabelSets(LABELS)
    tally = metric.tally(predicted_BC, targets_BC)
    assert adds_up(metric.tally, predicted_BC, targets_BC, cut)
    found = metric.read(tally)
    exact = [one == other for one, other in zip(predicted_BC.tolist(), targets_BC.tolist(), strict=True)]
    assert found["exact_match"] == pytest.approx(sum(exact) / rows if rows else math.nan, nan_ok=True)
    each = [
        f1(int((p & t).sum()), int(p.sum()), int(t.sum())) for p, t in zip(predicted_BC.T, targets_BC.T, strict=True)
    ]
    known = [value for value in each if not math.isnan(value)]
    assert found["macro_f1"] == pytest.approx(sum(known) / len(known) if known else math.nan, nan_ok=True)
    overall = f1(int((predicted_BC & targets_BC).sum()), int(predicted_BC.sum()), int(targets_BC.sum()))
    assert found["micro_f1"] == pytest.approx(overall, nan_ok=True)


def test_sets_of_labels_as_scikit_learn_sees_them() -> None:
    targets_BC = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]]).bool()
    predicted_BC = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0]]).bool()
    metric = LabelSets(("a", "b", "c"))
    tally = metric.tally(predicted_BC, targets_BC)
    expected = {"exact_match": 0.4, "micro_f1": 0.7692307692307693, "macro_f1": 0.5523809523809523}
    assert metric.read(tally) == pytest.approx(expected, rel=1e-12)


@given(
    rows=st.integers(0, 40),
    sharp=st.sampled_from([0.0, 1.0, 30.0]),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    cut=st.integers(0, 40),
)
def test_calibration_error_is_that_of_its_definition(rows: int, sharp: float, ignored: float, cut: int) -> None:
    """Guo et al. 2017, section 2, in bins (m / 15, (m + 1) / 15]."""
    _, targets_T = draw(rows, seed=rows, ignored=ignored)
    scores_TC = sharp * torch.randn(rows, len(LABELS), generator=torch.Generator().manual_seed(rows))
    metric = Calibration()
    tally = metric.tally(scores_TC, targets_T)
    assert adds_up(metric.tally, scores_TC, targets_T, cut)  # to the last bit
    confidences_T, predicted_T = scores_TC.softmax(1).max(1)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for confidence, taken, target in zip(confidences_T.tolist(), predicted_T.tolist(), targets_T.tolist(), strict=True):
        if target != IGNORED:
            (bin,) = (m for m in range(15) if m / 15 < confidence <= (m + 1) / 15)
            bins[bin].append((confidence, taken == target))
    assert tally.tolist() == [[len(b), sum(sure for sure, _ in b), sum(right for _, right in b)] for b in bins]
    rows = sum(map(len, bins))
    error = (
        sum(len(b) / rows * abs(sum(right - sure for sure, right in b) / len(b)) for b in bins if b)
        if rows
        else math.nan
    )
    assert metric.read(tally)["ece"] == pytest.approx(error, abs=1e-12, nan_ok=True)


def test_calibration_error_as_torchmetrics_sees_it() -> None:
    """torchmetrics 1.9.0, calibration_error(n_bins=15, norm="l1")."""
    scores = [[2.0, 0, 0], [0, 1, 0], [0, 0, 0.5], [3, 0, 1], [0, 0.2, 0.1], [1, 1.5, 0]]
    metric = Calibration()
    tally = metric.tally(torch.tensor(scores), torch.tensor([0, 1, 0, 0, 2, 1]))
    assert metric.read(tally)["ece"] == pytest.approx(0.3443, abs=5e-5)
    assert metric.tally(torch.tensor([[100.0, 0, 0]]).bfloat16(), torch.tensor([1]))[14].tolist() == [1, 1, 0]
    above_9_15 = torch.tensor([[0.6, 0.4]]).log()  # in float32 0.60000002, and 15 times that is 9
    assert metric.tally(above_9_15, torch.tensor([0]))[9].tolist() == pytest.approx([1, 0.6, 1])


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), max_size=30), st.integers(0, 30))
def test_figures_of_numbers_add_up_to_their_definitions(pairs: list[tuple[int, int]], cut: int) -> None:
    predicted_B, targets_B = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).div(8).unbind(1)
    metric = Regression()
    assert adds_up(metric.tally, predicted_B, targets_B, cut)
    found = metric.read(metric.tally(predicted_B, targets_B))
    errors = predicted_B - targets_B
    assert found["mse"] == pytest.approx(errors.square().mean().item(), nan_ok=True)
    assert found["mae"] == pytest.approx(errors.abs().mean().item(), nan_ok=True)
    if len(predicted_B.unique()) > 1 and len(targets_B.unique()) > 1:
        assert found["pearson"] == pytest.approx(torch.corrcoef(torch.stack([predicted_B, targets_B]))[0, 1].item())
    else:
        assert math.isnan(found["pearson"])


def test_a_constant_correlates_with_nothing_also_where_roundings_differ() -> None:
    metric = Regression()
    targets_B = torch.arange(1000.0)
    for constant in (0.1, 0.7, 3.3):
        constant_B = torch.full((1000,), constant, dtype=torch.float64)
        for pair in ((constant_B, targets_B), (targets_B, constant_B)):
            assert math.isnan(metric.read(metric.tally(*pair))["pearson"])
    years_B = 2000 + targets_B / 1000
    assert metric.read(metric.tally(years_B, 3 * targets_B))["pearson"] == pytest.approx(1, abs=1e-6)


def test_each_metric_says_which_of_its_figures_are_better_when_higher() -> None:
    """The main figures, which choose the best checkpoint, among them."""
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tallies = [
        (Confusion(("a", "b")), scores, torch.tensor([0, 1])),
        (Calibration(), scores, torch.tensor([0, 1])),
        (LabelSets(("a", "b")), scores, scores > 0),
        (Regression(), scores[0], scores[1]),
        (SpanScores(("O", "B-person")), (tags := Ragged.from_list([torch.tensor([0, 1])])), tags),
        (ExactMatch(), ["a"], ["a"]),
        (Bleu(), ["a"], ["a"]),
        (ChrF(), ["a"], ["a"]),
    ]
    found = {}
    for metric, *pair in tallies:
        figures = metric.read(metric.tally(*pair))
        assert metric.main is None or metric.main in figures
        found |= {name: metric.higher_is_better(name) for name in figures}
    lower = {name for name, higher in found.items() if not higher}
    assert lower == {"ece", "mse", "mae"}
    assert found.keys() - lower == {
        "accuracy", "macro_f1", "micro_f1", "mcc", "exact_match", "pearson", "precision", "recall", "f1",
        "precision/person", "recall/person", "f1/person", "bleu", "chrf",
    }  # fmt: skip
