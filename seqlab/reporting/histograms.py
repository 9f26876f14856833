"""Histograms of lengths as a picture, on an axis of logarithms: lengths of text spread over orders of magnitude."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from seqlab.data.examples import Int64s

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
        title = f"{split}: {len(lengths):,} rows by {unit}, {lengths.min():,} to {lengths.max():,}"
        draw_panel(ImageDraw.Draw(panel), lengths, edges, title)
        picture.paste(panel, (0, PANEL * number))
    return picture


def draw_panel(draw: ImageDraw.ImageDraw, lengths: Int64s, edges: Int64s, title: str) -> None:
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
            draw.rectangle((round(x(left)), round(top), round(x(right)) - 1 - gap, floor - 1), BAR)
    draw.line((LEFT, floor, WIDTH - RIGHT, floor), INK)
    free = 0.0  # from here on there is room for a label
    for tick in (0, *(digit * 10**power for power in range(9) for digit in (1, 2, 5))):
        at, label = x(tick + 0.5), f"{tick:,}"
        wide = draw.textlength(label, font=small)
        if edges[0] <= tick < edges[-1]:
            draw.line((at, floor, at, floor + 4), INK)
            if at - wide / 2 > free:
                draw.text((at - wide / 2, floor + 7), label, INK, small)
                free = at + wide / 2 + 8
    free = 0.0
    for percent, length in zip(MARKS, np.percentile(lengths, MARKS, method="inverted_cdf"), strict=True):
        at, label = x(length + 0.5), f"{percent} %: {length:,}"
        wide = draw.textlength(label, font=small)
        start = max(min(at - wide / 2, WIDTH - RIGHT - wide), LEFT, free)
        draw.line((at, TOP - 8, at, floor), MARK)
        draw.line((start + wide / 2, TOP - 18, at, TOP - 8), MARK)
        draw.text((start, TOP - 36), label, MARK, small)
        free = start + wide + 12
