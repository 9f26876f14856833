"""Text alone, as one stream, for language models that carry their state."""

from __future__ import annotations

from dataclasses import dataclass

from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
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

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.window < 1:
            raise InputError(f"form.lanes={self.lanes}, form.window={self.window}: expected at least 1")
