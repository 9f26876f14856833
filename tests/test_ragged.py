"""Layout and Ragged: the arithmetic of where sequences lie, against loops that a reader can check by eye."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlab import Layout, Ragged
from seqlab.ragged import joint_runs_of, rows_of, runs_of, time_major_of, widths_of

LENGTHS = st.lists(st.one_of(st.integers(0, 6), st.just(40)), max_size=12)


def test_the_example_of_the_docstring() -> None:
    layout = Layout(torch.tensor([3, 1, 2]))
    assert layout.offsets.tolist() == [0, 3, 4, 6]
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert layout.segments.tolist() == [0, 0, 0, 1, 2, 2]
    order = layout.time_major
    assert order.index_T.tolist() == [0, 4, 3, 1, 5, 2]
    assert order.longest_B.tolist() == [0, 2, 1]
    assert order.widths_S.tolist() == [3, 2, 1]


@given(LENGTHS)
def test_everything_derived_agrees_with_loops(lengths: list[int]) -> None:
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    places = [(i, t) for i, n in enumerate(lengths) for t in range(n)]
    assert layout.total == len(places)
    assert layout.longest == max(lengths, default=0)
    assert layout.segments.tolist() == [i for i, _ in places]
    assert layout.positions.tolist() == [t for _, t in places]
    assert layout.offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]

    order = layout.time_major
    longest = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    expected = [(i, t) for t in range(layout.longest) for i in longest if lengths[i] > t]
    assert [places[row] for row in order.index_T.tolist()] == expected
    assert order.index_T[order.inverse_T].tolist() == list(range(layout.total))
    assert order.longest_B.tolist() == longest
    assert order.widths_S.tolist() == [sum(n > t for n in lengths) for t in range(layout.longest)]


class JointRun(NamedTuple):
    start_a: int
    start_b: int
    sequences: int
    length_a: int
    length_b: int


@given(LENGTHS, st.data())
def test_joint_runs_cover_every_row_once_and_are_as_long_as_can_be(lengths: list[int], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    a, b = Layout(torch.tensor(lengths, dtype=torch.int64)), Layout(torch.tensor(others, dtype=torch.int64))
    runs = [JointRun(*run) for run in joint_runs_of(a.lengths, b.lengths)]
    rows_a = [row for run in runs for row in range(run.start_a, run.start_a + run.sequences * run.length_a)]
    assert rows_a == list(range(a.total))
    covered = {row for run in runs for row in range(run.start_b, run.start_b + run.sequences * run.length_b)}
    assert covered == {j for j, i in enumerate(b.segments.tolist()) if lengths[i] > 0}
    for left, right in pairwise(runs):
        neighbours = left.start_b + left.sequences * left.length_b == right.start_b
        empty_between = left.start_a + left.sequences * left.length_a != right.start_a
        same = (left.length_a, left.length_b) == (right.length_a, right.length_b)
        assert not (same and neighbours and not empty_between) or 0 in lengths
    assert [(run.start, run.sequences, run.length) for run in a.runs] == [
        (start, count, length) for start, _, count, length, _ in joint_runs_of(a.lengths, a.lengths)
    ]


def test_runs_of_the_docstring() -> None:
    assert runs_of(torch.tensor([2, 2, 0, 3])) == [(0, 2, 2), (4, 1, 3)]


@given(LENGTHS, st.data())
def test_select_cat_and_padding_go_round(lengths: list[int], data: st.DataObject) -> None:
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    ragged = Ragged(torch.randn(layout.total, 2), layout)
    sequences = ragged.to_list()
    assert [len(sequence) for sequence in sequences] == lengths
    back = Ragged.from_padded(ragged.to_padded(fill=float("nan")), lengths)
    assert torch.equal(back.values, ragged.values)
    if lengths:
        indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6))
        selected = ragged.select(indices)
        assert all(torch.equal(a, sequences[i]) for a, i in zip(selected.to_list(), indices, strict=True))
        again = Ragged.cat([selected, ragged])
        assert again.lengths.tolist() == [lengths[i] for i in indices] + lengths
        assert torch.equal(again.values, torch.cat([selected.values, ragged.values]))
        assert torch.equal(Ragged.from_list(sequences).values, ragged.values)


def test_padding_is_filled_and_only_padding() -> None:
    padded = Ragged.from_list([torch.ones(2), torch.ones(0), torch.ones(3)]).to_padded(fill=-1)
    assert padded.tolist() == [[1, 1, -1], [-1, -1, -1], [1, 1, 1]]


def test_gradients_flow_through_map_select_and_padding() -> None:
    values = torch.randn(6, 2, requires_grad=True)
    ragged = Ragged(values, Layout([3, 1, 2])).map(lambda x: x * 3).select([2, 2])
    ragged.to_padded().sum().backward()
    assert values.grad is not None
    assert values.grad[:, 0].tolist() == [0, 0, 0, 0, 6, 6]


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        (torch.tensor([1.0]), TypeError, "integers"),
        (torch.tensor([True]), TypeError, "integers"),
        (torch.tensor([[1]]), ValueError, "one dimension"),
        (torch.tensor([2, -1]), ValueError, "negative"),
        (torch.tensor([1], device="meta"), ValueError, "CPU"),
    ],
)
def test_a_layout_is_checked_when_made(lengths: torch.Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Layout(lengths)


def test_values_must_fit_the_layout() -> None:
    with pytest.raises(ValueError, match="one row per token"):
        Ragged(torch.zeros(5), Layout([3, 1]))
    with pytest.raises(ValueError, match="cannot hold"):
        Ragged.from_padded(torch.zeros(2, 3), [4, 1])
    with pytest.raises(ValueError, match="one row per token"):
        Ragged(torch.zeros(4), Layout([3, 1])).map(lambda x: x[:2])
    with pytest.raises(ValueError, match="at least one"):
        Ragged.from_list([])


def test_only_the_lengths_travel_through_a_pickle() -> None:
    ragged = Ragged(torch.zeros(4000, dtype=torch.int8), Layout([3000, 1000]))
    assert len(ragged.layout.time_major.index_T) == 4000
    again = pickle.loads(pickle.dumps(ragged.layout))
    assert again == ragged.layout
    assert "time_major" not in vars(again)
    assert len(pickle.dumps(ragged.layout)) < 1000


def test_layouts_compare_by_value() -> None:
    assert Layout([1, 2]) == Layout(torch.tensor([1, 2], dtype=torch.int32))
    assert Layout([1, 2]) != Layout([2, 1])
    assert Layout([1, 2]) != "layout"


def test_the_layout_stays_on_the_host() -> None:
    ragged = Ragged(torch.zeros(3), Layout([1, 2]))
    moved = ragged.to("meta")
    assert moved.device.type == "meta"
    assert moved.layout is ragged.layout
    assert ragged.to("cpu") is ragged


@pytest.mark.parametrize("function", [runs_of, widths_of, time_major_of, joint_runs_of, rows_of])
def test_the_arithmetic_scripts(function: object) -> None:
    lengths = torch.tensor([2, 0, 3, 3, 1])
    given_ = (lengths, lengths.flip(0)) if function in (joint_runs_of, rows_of) else (lengths,)
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(function)  # type: ignore[arg-type]
    for a, b in zip(scripted(*given_), function(*given_), strict=True):  # type: ignore[operator]
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
