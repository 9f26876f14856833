"""Bars stand where their lengths are, and as high as they are many; labels neither overlap nor leave the picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.cli.histograms import (
    BAR,
    BINS,
    BOTTOM,
    LEFT,
    MARK,
    PANEL,
    RIGHT,
    TOP,
    WIDTH,
    bins,
    density,
    histograms,
    place,
    spread,
)

lengths = st.lists(st.integers(0, 30) | st.integers(0, 10**6), min_size=1, max_size=50)


@given(lengths)
def test_every_length_is_in_one_bin_and_areas_are_shares(values: list[int]) -> None:
    edges = bins(min(values), max(values))
    assert (edges[0], edges[-1]) == (min(values), max(values) + 1)
    assert (np.diff(edges) >= 1).all()
    assert len(edges) <= BINS + 1
    areas = density(np.array(values), edges) * np.diff(place(edges))
    counted = [sum(a <= value < b for value in values) for a, b in pairwise(edges)]
    np.testing.assert_allclose(areas, counted, atol=1e-9)


def test_bins_are_about_equally_wide_on_an_axis_of_logarithms() -> None:
    edges = bins(100, 100_000)
    assert len(edges) == BINS + 1
    widths = np.diff(place(edges))
    assert widths.max() / widths.min() < 1.1


def panel(values: list[int], edges_of: list[int] | None = None) -> np.ndarray:
    """The bars of a split as a picture of truth values; another split may widen the axis."""
    splits = {"train": np.array(values)} | ({"test": np.array(edges_of)} if edges_of else {})
    picture = np.asarray(histograms(splits, "tokens"))
    assert picture.shape == (PANEL * len(splits), WIDTH, 3)
    assert picture.dtype == np.uint8
    bars = (picture[:PANEL] == BAR).all(2)
    marked = (picture[:PANEL] == MARK).all(2)
    bars[TOP:] |= marked[TOP:]  # percentiles are drawn over them, and over nothing else in this part
    return bars


def test_a_single_length_fills_its_room() -> None:
    bars = panel([7, 7, 7])
    columns = np.flatnonzero(bars[PANEL - BOTTOM - 1])
    assert (columns.min(), len(columns)) == (LEFT, WIDTH - LEFT - RIGHT - 1)
    assert bars[TOP:, WIDTH // 3].sum() == PANEL - TOP - BOTTOM


@pytest.mark.parametrize("value", [0, 3, 40, 999])
def test_a_bar_stands_where_its_lengths_are(value: int) -> None:
    bars = panel([value] * 5, [0, 1000])
    columns = np.flatnonzero(bars[PANEL - BOTTOM - 1])
    room = (WIDTH - LEFT - RIGHT) / place(1001)
    edges = bins(0, 1000)
    at = np.searchsorted(edges, value, side="right")
    assert columns.min() == pytest.approx(LEFT + place(edges[at - 1]) * room, abs=1)
    assert columns.max() == pytest.approx(LEFT + place(edges[at]) * room, abs=3)


def test_bars_are_as_high_as_lengths_are_many() -> None:
    # 1 and 3 have the rooms log(3/2) and log(5/4): as high as each other where they are that many.
    bars = panel([1] * 40 + [3] * 10)
    heights = bars[TOP : PANEL - BOTTOM].sum(0)
    low, high = int(heights[LEFT + 10]), int(heights[WIDTH - RIGHT - 10])
    assert low == PANEL - BOTTOM - TOP
    assert high / low == pytest.approx((10 / np.log(5 / 4)) / (40 / np.log(3 / 2)), abs=0.02)
    assert heights[WIDTH // 2 + 50] == 0  # of length 2 there is none


def test_the_rarest_is_seen() -> None:
    bars = panel([1] * 10**5 + [1000])
    assert bars[PANEL - BOTTOM - 1, WIDTH - RIGHT - 6 : WIDTH - RIGHT - 1].any()


def test_percentiles_are_marked() -> None:
    values = [10] * 60 + [1000] * 40
    picture = np.asarray(histograms({"train": np.array(values)}, "tokens"))
    line = (picture[TOP - 4] == MARK).all(1)
    room = (WIDTH - LEFT - RIGHT) / (place(1001) - place(10))
    expected = [LEFT + float(place(at + 0.5) - place(10)) * room for at in (10, 1000)]
    np.testing.assert_allclose(np.flatnonzero(line), expected, atol=1)


@given(st.lists(st.floats(0, WIDTH), min_size=4, max_size=4), st.lists(st.integers(20, 150), min_size=4, max_size=4))
def test_labels_neither_overlap_nor_leave_the_picture(places: list[float], widths: list[float]) -> None:
    places = sorted(places)
    starts = spread(places, widths)
    ends = [start + width for start, width in zip(starts, widths, strict=True)]
    assert all(end < start for end, start in zip(ends[:-1], starts[1:], strict=True))
    assert starts[0] > 0
    assert ends[-1] < WIDTH


def test_labels_with_room_stand_in_the_middle() -> None:
    assert spread([100, 300, 500, 700], [50, 50, 50, 50]) == [75, 275, 475, 675]
