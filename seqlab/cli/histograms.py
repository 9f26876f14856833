"""Histograms of lengths as a picture, on an axis of logarithms: lengths of text spread over orders of magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from seqlab.data.examples import Int64s
from seqlab.errors import counted

WIDTH, PANEL = 900, 240  # pixels, of the picture and of each split
LEFT, RIGHT, TOP, BOTTOM = 24, 24, 70, 34  # margins inside a panel
BINS = 60  # at most
MARKS = (5, 50, 95, 99)
WHITE, INK, BAR, MARK = (255, 255, 255), (50, 54, 62), (92, 138, 198), (196, 78, 60)


def place(lengths: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where a length stands on the axis. Length n takes the room from place(n) to place(n + 1); 0 is legal."""
    return np.log1p(np.asarray(lengths, np.float64))


def bins(shortest: int, longest: int) -> Int64s:
    """Edges [n + 1]: about equally wide on the axis, none narrower than one length."""
    places = np.linspace(place(shortest), place(longest + 1), BINS + 1)
    return np.unique(np.expm1(places).round().astype(np.int64))


def density(lengths: Int64s, edges: Int64s) -> npt.NDArray[np.float64]:
    """Height of each bar: rows per room on the axis, so that areas are shares of rows, whatever a bar's width."""
    return np.histogram(lengths, edges)[0] / np.diff(place(edges))


def histograms(splits: Mapping[str, Int64s], unit: str) -> Image.Image:
    """A panel for each split, none empty, all on the same axis, with percentiles marked. `unit` is what is counted."""
    picture = Image.new("RGB", (WIDTH, PANEL * len(splits)), WHITE)
    edges = bins(min(int(part.min()) for part in splits.values()), max(int(part.max()) for part in splits.values()))
    for number, (split, lengths) in enumerate(splits.items()):
        panel = Image.new("RGB", (WIDTH, PANEL), WHITE)
        title = f"{split}: {counted(len(lengths), 'row')} by {unit}, {lengths.min():,} to {lengths.max():,}"
        draw_panel(ImageDraw.Draw(panel), lengths, edges, title)
        picture.paste(panel, (0, PANEL * number))
    return picture


def draw_panel(draw: ImageDraw.ImageDraw, lengths: Int64s, edges: Int64s, title: str) -> None:
    """One split; the axis runs from the first edge to the last."""
    first, last = place(edges[0]), place(edges[-1])
    floor, small, large = PANEL - BOTTOM, ImageFont.load_default(13), ImageFont.load_default(16)

    def x(length: float) -> float:
        return LEFT + float((place(length) - first) / (last - first)) * (WIDTH - LEFT - RIGHT)

    draw.text((LEFT, 8), title, INK, large)
    heights = density(lengths, edges)
    scale = (floor - TOP) / heights.max()
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        if height:
            gap = 1 if x(right) - x(left) > 3 else 0
            top = min(floor - height * scale, floor - 1)  # the rarest is seen, too
            draw.rectangle((round(x(left)), round(top), max(round(x(right)) - 1 - gap, round(x(left))), floor - 1), BAR)
    draw.line((LEFT, floor, WIDTH - RIGHT, floor), INK)
    digits = (1, 2, 5) if edges[-1] > 10 * edges[0] else range(1, 10)
    round_ones = [digit * 10**power for power in range(19) for digit in digits]
    taken: list[tuple[float, float]] = []  # by labels; the ends of the axis come first
    for tick in (edges[0], edges[-1] - 1, *(tick for tick in round_ones if edges[0] < tick < edges[-1] - 1)):
        at, label = x(tick + 0.5), f"{tick:,}"
        half = draw.textlength(label, font=small) / 2
        start = max(min(at - half, WIDTH - 2 * half), 0)
        if all(start + 2 * half + 8 < a or b + 8 < start for a, b in taken):
            draw.line((at, floor, at, floor + 4), INK)
            draw.text((start, floor + 7), label, INK, small)
            taken.append((start, start + 2 * half))
    marks = np.percentile(lengths, MARKS, method="inverted_cdf").tolist()
    labels = [f"{percent} %: {length:,}" for percent, length in zip(MARKS, marks, strict=True)]
    places = [x(length + 0.5) for length in marks]
    for at, label, start in zip(
        places, labels, spread(places, [draw.textlength(t, font=small) for t in labels]), strict=True
    ):
        middle = start + draw.textlength(label, font=small) / 2
        draw.line((at, TOP - 8, at, floor), MARK)
        draw.line((middle, TOP - 18, at, TOP - 8), MARK)
        draw.text((start, TOP - 36), label, MARK, small)


def spread(places: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Where labels start that should stand centred at rising places, and must neither overlap nor leave the picture."""
    starts, free = [], 4.0
    for at, width in zip(places, widths, strict=True):
        starts.append(max(at - width / 2, free))
        free = starts[-1] + width + 12
    free = WIDTH - 4.0
    for i in reversed(range(len(starts))):
        starts[i] = min(starts[i], free - widths[i])
        free = starts[i] - 12
    return starts
