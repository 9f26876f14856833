"""Span scores: those of a loop over sets of spans, however batched, and those published for systems of WNUT 2017."""

from __future__ import annotations

import math
import os
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqlab.errors import InputError
from seqlab.ragged import IGNORED, Layout, Ragged
from seqlab.tasks.metrics.spans import SpanScores
from seqlab.text.tags import spans

BIO = ("O", "B-a", "I-a", "B-b", "I-b")
IOBES = (*BIO, "E-a", "S-a", "E-b", "S-b")

REPOSITORY = Path(__file__).resolve().parents[2]
WNUT17 = Path(os.environ.get("SEQLAB_DATA", REPOSITORY.parent / "shared" / "data")) / "wnut17"
needs_wnut17 = pytest.mark.skipif(
    not WNUT17.is_dir(),
    reason=f"needs the shared-task data of WNUT 2017 in {WNUT17}; SEQLAB_DATA names the folder above",
)


def one_by_one(labels: tuple[str, ...], predicted: list[list[int]], targets: list[list[int]]) -> list[list[int]]:
    """[types, 3]: sentence by sentence, sets of spans."""
    counts = [[0, 0, 0], [0, 0, 0]]
    for pair in zip(predicted, targets, strict=True):
        judged = [word for word, target in enumerate(pair[1]) if target != IGNORED]
        found = []
        for ids in pair:
            found.append(set(spans([labels[ids[word]] for word in judged])))
        for column, sets in enumerate((found[0] & found[1], *found)):
            for span in sets:
                counts["ab".index(span.type)][column] += 1
    return counts


def ragged(sentences: list[list[int]]) -> Ragged:
    words = torch.tensor([tag for tags in sentences for tag in tags], dtype=torch.int64)
    return Ragged(words, Layout(torch.tensor([len(tags) for tags in sentences])))


lengths = st.lists(st.one_of(st.sampled_from([0, 1, 3, 3, 60]), st.integers(0, 8)), max_size=6)


@pytest.mark.parametrize("labels", [BIO, IOBES], ids=["BIO", "IOBES"])
@given(
    lengths=lengths, ignored=st.sampled_from([0.0, 0.3, 1.0]), wrong=st.sampled_from([0.0, 0.2, 1.0]), data=st.data()
)
def test_the_flat_batch_is_counted_as_sentence_by_sentence(
    labels: tuple[str, ...], lengths: list[int], ignored: float, wrong: float, data: st.DataObject
) -> None:
    random = data.draw(st.randoms(use_true_random=False))
    targets = [[random.randrange(len(labels)) for _ in range(length)] for length in lengths]
    predicted = [
        [random.randrange(len(labels)) if random.random() < wrong else tag for tag in tags] for tags in targets
    ]
    targets = [[IGNORED if random.random() < ignored else tag for tag in tags] for tags in targets]
    metric = SpanScores(labels)
    tally = metric.tally(ragged(predicted), ragged(targets))
    assert tally.dtype == torch.int64
    assert tally.tolist() == one_by_one(labels, predicted, targets)
    cut = data.draw(st.integers(0, len(lengths)))
    parts = (slice(None, cut), slice(cut, None))
    assert torch.equal(tally, sum_of(metric.tally(ragged(predicted[p]), ragged(targets[p])) for p in parts))


def sum_of(tallies: object) -> Tensor:
    return torch.stack(list(tallies)).sum(0)  # type: ignore[call-overload]


def ids(tags: str) -> Ragged:
    return ragged([[BIO.index(tag) for tag in sentence.split()] for sentence in tags.split("|")])


def test_rates_of_an_example() -> None:
    targets = ids("B-a I-a O B-b | B-a O B-b I-b")
    predicted = ids("B-a I-a O B-a | B-a O B-b O")
    metric = SpanScores(BIO)
    found = metric.read(metric.tally(predicted, targets))
    overall = {"precision": 2 / 4, "recall": 2 / 4, "f1": 2 / 4}
    by_type = {"precision/a": 2 / 3, "recall/a": 2 / 2, "f1/a": 4 / 5, "precision/b": 0, "recall/b": 0, "f1/b": 0}
    assert found == pytest.approx(overall | by_type)


def test_a_span_does_not_reach_into_the_next_sentence_and_ignored_words_are_passed_over() -> None:
    metric = SpanScores(BIO)
    assert metric.tally(ids("O B-a | I-a"), ids("O B-a | I-a")).tolist() == [[2, 2, 2], [0, 0, 0]]
    targets = ids("B-a O I-a")
    targets.values[1] = IGNORED
    assert metric.tally(ids("B-a B-b I-a"), targets).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_orphans_count() -> None:
    targets, predicted = ids("B-a I-a O"), ids("I-a I-a O")
    assert SpanScores(BIO).tally(predicted, targets).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_nothing_to_judge_is_nan_and_nothing_found_is_zero() -> None:
    metric = SpanScores(BIO)
    nothing = metric.read(metric.tally(ids("O O"), ids("O O")))
    assert len(nothing) == 9
    assert all(math.isnan(value) for value in nothing.values())
    missed = metric.read(metric.tally(ids("O O"), ids("B-a O")))
    assert [missed[name] for name in ("precision", "recall", "f1", "f1/a")] == [0, 0, 0, 0]
    assert math.isnan(missed["f1/b"])
    only_outside = SpanScores(["O"])
    assert only_outside.tally(ragged([[0, 0]]), ragged([[0, 0]])).shape == (0, 3)
    with pytest.raises(InputError, match="'NOUN' marks no span"):
        SpanScores(["O", "NOUN"])


def read_wnut17(path: Path) -> list[list[str]]:
    """The tags, the last column, of every sentence; columns are separated by a tab or a blank."""
    blocks = path.read_bytes().decode().replace("\r\n", "\n").split("\n\n")
    return [[line.split()[-1] for line in block.splitlines() if line.strip()] for block in blocks if block.strip()]


@needs_wnut17
@pytest.mark.parametrize(
    ("system", "precision", "recall", "f1"),
    [
        ("uh_ritual", 57.54, 32.90, 41.86),
        ("spinningbytes.txt", 47.09, 35.96, 40.78),
        ("sjtu_adapt.txt", 50.21, 33.83, 40.42),
        ("arcada", 47.40, 34.57, 39.98),
        ("mic-cis.txt", 40.97, 33.83, 37.06),
        ("drexel_cci", 50.39, 17.79, 26.30),
    ],
)
def test_the_systems_of_wnut17_get_their_published_scores(
    system: str, precision: float, recall: float, f1: float
) -> None:
    """The output files of the shared task (Derczynski et al. 2017), and its scores of entities."""
    gold, answers = read_wnut17(WNUT17 / "emerging.test.annotated"), read_wnut17(WNUT17 / "submissions" / system)
    labels = sorted({tag for tags in gold for tag in tags})
    assert len(gold) == len(answers) == 1287
    targets, predicted = (ragged([[labels.index(tag) for tag in tags] for tags in side]) for side in (gold, answers))
    metric = SpanScores(labels)
    found = metric.read(metric.tally(predicted, targets))
    assert [round(100 * found[name], 2) for name in ("precision", "recall", "f1")] == [precision, recall, f1]
    batches = zip(predicted.to_list(), targets.to_list(), strict=True)
    parts = [
        metric.tally(Ragged.from_list(list(ours)), Ragged.from_list(list(theirs)))
        for part in iter(lambda: list(islice(batches, 100)), [])
        for ours, theirs in [zip(*part, strict=True)]
    ]
    assert len(parts) == 13
    assert metric.read(sum_of(parts)) == found
