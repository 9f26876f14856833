"""The texts of a split as one stream, read side by side in several lanes, a window of each at a time.

    texts  ab, c, defg        stream  | a b | c | d e f g |        "|" is the end mark

    lanes = 2, window = 3     lane 0  | a b   | c              batch 0  [| a b] [d e f]
                              lane 1  d e f   g                batch 1  [| c]   [g]

Batch i is window i of every lane (Zaremba et al. 2014, section 4.1), so that a model that keeps its state from batch to
batch reads each lane as one sequence; a border between texts resets nothing. Every token behind the first end mark is
predicted once, the first of a lane without what came before it in the lane before. Lanes differ in length by a token at
most, and what is left for the last window is as short as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples, Int64s, Rows
from seqlab.data.plan import Plan


class Windows:
    """The windows of a stream as examples: number i is window i // lanes of lane i % lanes.

    Args:
        table: of text alone, see `examples.py`.
        lanes: how many parts of the stream are read side by side.
        window: how many tokens of each are read at once.

    Attributes:
        lengths: [E] int64; some of the last window may be 0.
        report: as that of `Examples`; nothing is ever too long.
        alone: how many examples, the first ones, go on from no other.

    Raises:
        DataError: the table is damaged.
    """

    max_length, over_long = None, "split"

    def __init__(self, table: datasets.Dataset, lanes: int, window: int) -> None:
        self._texts = texts = Examples(table)
        self._text_ends = np.cumsum(texts.lengths)
        borders = np.arange(lanes + 1) * int(texts.lengths.sum()) // lanes
        steps = -(-int(np.diff(borders).max()) // window)
        begins = np.minimum(borders[:-1] + window * np.arange(steps)[:, None], borders[1:])
        self._begins: Int64s = begins.reshape(-1)
        self.lengths: Int64s = np.minimum(borders[1:] - begins, window).reshape(-1)
        self.report, self.lanes = texts.report, lanes
        self.alone = min(lanes, len(self))

    def __len__(self) -> int:
        """E, the number of windows of all lanes."""
        return len(self.lengths)

    @property
    def sides(self) -> list[Int64s]:
        """As that of `Examples`."""
        return [self.lengths]

    def plan(self, tokens: int, pool: int, seed: int | None, epoch: int) -> Plan:
        """One after the other, the same in all epochs."""
        return Plan(np.arange(len(self)), np.arange(0, len(self) + 1, self.lanes))

    def batch(self, indices: Sequence[int] | Int64s) -> Batch:
        """The chosen windows, longest first (equal ones as given). Their numbers are the batch's ids."""
        return self.read(indices).batch()

    def read(self, indices: Sequence[int] | Int64s) -> Rows:
        """The same batch before it is tensors."""
        ids = np.asarray(indices, np.int64)
        ids = ids[np.argsort(-self.lengths[ids], kind="stable")]
        begins, lengths = self._begins[ids], self.lengths[ids]
        # A window is what it has of the texts from the one with its first token to the one with its last.
        first = np.searchsorted(self._text_ends, begins, side="right")
        last = np.searchsorted(self._text_ends, begins + lengths, side="left")
        pieces = np.where(lengths > 0, last - first + 1, 0)
        window = np.repeat(np.arange(len(ids)), pieces)
        text = first[window] + np.arange(len(window)) - (np.cumsum(pieces) - pieces)[window]
        whole = self._texts.lengths[text]
        offsets = self._text_ends[text] - whole
        start = np.maximum(begins[window] - offsets, 0)
        end = np.minimum((begins + lengths)[window] - offsets, whole)
        tokens, targets, bytes_of_pieces = self._texts.pieces(text, start, end)
        sizes = np.zeros(len(ids), np.int64)
        np.add.at(sizes, window, bytes_of_pieces)
        return Rows({"tokens": (tokens, lengths), "targets": (targets, lengths)}, ids, sizes)
