"""From batches to the plain tensors that an exported model takes, and back; for all adapters.

The first part is compiled by TorchScript, the second goes into graphs, the third puts batches to loaded models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seqlab.exporting.equal_lengths import by_length
from seqlab.ragged import Layout, Ragged, inside_of, offsets_of

Run = Callable[..., Sequence[Tensor]]  # a program that was loaded


# ----------------------------------------------------------------------------------- for modules that TorchScript takes


def lengths_of(tokens: Tensor, offsets: Tensor) -> Tensor:
    """Return lengths [B] int64, on the CPU.

    Raises:
        ValueError: the offsets do not go from 0 to the number of tokens, never downwards.
    """
    offsets = offsets.to("cpu")
    lengths = torch.diff(offsets)
    total = tokens.shape[0]
    if offsets.shape[0] == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((lengths < 0).any()):
        raise ValueError(f"offsets must go from 0 to the number of tokens, {total}, and never downwards")
    return lengths


def gathered(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens [T] and offsets [B + 1] of a padded batch."""
    there = mask != 0
    return ids[there], offsets_of(there.sum(1).to("cpu"))


# ------------------------------------------------------------------------------------------------ for modules of graphs


def block_of(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens [N, L], with some token in place of padding, and lengths [N]."""
    there = mask != 0
    return ids.masked_fill(~there, 0), there.sum(1)


def row_major(state: list[Tensor]) -> list[Tensor]:
    """Return the tensors in the layout that the next program reads: machine code does not look at strides."""
    return [tensor.contiguous() for tensor in state]


def example_block() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return example inputs of `equal` and of `padded`."""
    ids, mask = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5, dtype=torch.int64)
    return {"tokens": ids}, {"ids": ids, "mask": mask}


# ----------------------------------------------------------------------------------------- for putting batches to calls


def random_numbers(below: int, layout: Layout, draw: torch.Generator) -> Ragged:
    """Return a random number below a limit for each token."""
    return Ragged(torch.randint(below, (layout.total,), generator=draw), layout)


def padded_batch(texts: Ragged, at_least: int = 0) -> tuple[Tensor, Tensor]:
    """Return a right-padded block, -1 in the padding, and its mask; at least so many rows and columns."""
    lengths = texts.lengths
    if len(lengths) < at_least:
        lengths = torch.zeros(at_least, dtype=torch.int64)
    mask = inside_of(lengths, max(texts.layout.longest, at_least)).long()
    padded = texts.values.new_full((*mask.shape, *texts.values.shape[1:]), -1)
    padded[mask != 0] = texts.values
    return padded, mask


def in_equal_blocks(run: Run, *texts: Ragged, outputs: int = 1) -> list[list[Tensor]]:
    """Put texts to a program of sequences of equal length; for each output a row for each text."""
    return by_length(run, *(each.to_list() for each in texts), outputs=outputs)
