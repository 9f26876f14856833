"""Preprocessing for language modelling of a stream: text alone, for models that carry their state."""

from __future__ import annotations

from dataclasses import dataclass

import datasets

from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.windows import Windows
from seqlab.errors import InputError


@dataclass(frozen=True)
class StreamLanguageModelingPreprocessor(LanguageModelingPreprocessor):
    """All texts of a split one after the other, with an end mark behind each; see seqlab/data/windows.py.

    lanes   how many parts of the stream are read side by side, in training and in evaluation
    window  how many tokens of each are read at once; gradients stop where a window begins

    Raises:
        InputError: one of them is below 1.
    """

    lanes: int = 20
    window: int = 35

    policies = ("split",)
    streams = True

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.window < 1:
            raise InputError(f"form.lanes={self.lanes}, form.window={self.window}: expected at least 1")

    def make_examples(self, table: datasets.Dataset, max_length: int, over_long: str) -> Windows:
        """Return the windows of the stream, whatever the longest example may be."""
        return Windows(table, self.lanes, self.window)

    def tokens_per_batch(self, tokens: int) -> int:
        """Return the tokens of a window of every lane."""
        return self.lanes * self.window
