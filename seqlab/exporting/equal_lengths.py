"""Call a function of sequences of one length with sequences of any: those of equal length go together.

It needs torch alone and may be copied to where an exported model runs. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def by_length(
    core: Callable[..., Sequence[Tensor]],
    *sequences: Sequence[Tensor],
    outputs: int = 1,
    tokens_at_once: int = 16_384,
) -> list[list[Tensor]]:
    """Return the outputs of `core` for every sequence, in their order.

    Args:
        core: called with tensors [N, L, ...], gives tensors [N, ...], a row for each sequence.
        sequences: the inputs of `core`, each a list of B tensors [L, ...], which agree in lengths.
        outputs: how many tensors `core` gives.
        tokens_at_once: the most tokens, N * L, of one call; a longer sequence goes alone.

    Returns:
        For each output of `core` a list of B rows.

    Raises:
        ValueError: a sequence is empty, for exported graphs know no blocks of width 0; or inputs do not agree.
    """
    lengths = [len(sequence) for sequence in sequences[0]]
    if 0 in lengths:
        raise ValueError(
            f"sequence {lengths.index(0)} is empty: the graph of equal lengths wants at least one token of each"
        )
    for number, others in enumerate(sequences[1:], start=1):
        if len(others) != len(lengths):
            raise ValueError(f"input {number} has {len(others)} sequences, and input 0 has {len(lengths)}")
        for index, (other, length) in enumerate(zip(others, lengths, strict=True)):
            if len(other) != length:
                raise ValueError(f"sequence {index} has {len(other)} tokens in input {number}, and {length} in input 0")
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    answers = [[torch.empty(0)] * len(lengths) for _ in range(outputs)]
    for length, group in groups.items():
        size = max(tokens_at_once // length, 1)
        for indices in (group[begin : begin + size] for begin in range(0, len(group), size)):
            found = core(*(torch.stack([each[index] for index in indices]) for each in sequences))
            for answer, rows in zip(answers, found, strict=True):
                for index, row in zip(indices, rows, strict=True):
                    answer[index] = row
    return answers
