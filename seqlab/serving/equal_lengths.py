"""A function of sequences of one length, asked about sequences of any: those of equal length are asked together.

It needs torch alone and may be copied to where an exported model runs. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def by_length(core: Callable[..., Sequence[Tensor]], *sequences: Sequence[Tensor]) -> list[list[Tensor]]:
    """What `core` says of every sequence, in their order.

    Args:
        core: called with tensors [N, L, ...], gives tensors [N, ...], a row for each sequence.
        sequences: the inputs of `core`, each a list of B tensors [L, ...], which agree in lengths.

    Returns:
        For each output of `core` a list of B rows.

    Raises:
        ValueError: a sequence is empty; exported graphs know no blocks of width 0.
    """
    groups: dict[int, list[int]] = {}
    for index, sequence in enumerate(sequences[0]):
        if len(sequence) == 0:
            raise ValueError(f"sequence {index} is empty: the graph of equal lengths wants at least one token of each")
        groups.setdefault(len(sequence), []).append(index)
    answers: list[list[Tensor]] = []
    for indices in groups.values():
        outputs = core(*(torch.stack([each[index] for index in indices]) for each in sequences))
        if not answers:
            answers = [[output[0]] * len(sequences[0]) for output in outputs]
        for answer, output in zip(answers, outputs, strict=True):
            for index, row in zip(indices, output, strict=True):
                answer[index] = row
    return answers
