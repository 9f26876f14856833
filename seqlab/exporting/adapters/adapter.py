"""The base of adapters: what one kind of model takes and gives, written once for every format, parity and the
documentation.

There are three ways to call a model outside seqlab, all on plain tensors:

    ragged   tokens [T] int64, sequence after sequence, and offsets [B + 1] int64: sequence i is
             tokens[offsets[i] : offsets[i + 1]], as in seqlab/ragged.py
    padded   ids [B, L] int64 and mask [B, L], which is not 0 where there is a token
    equal    tokens [N, L], all of one length

TorchScript holds the first two, and computes nothing on padding either way: its padded way gathers the tokens, wherever
in their row they are, and goes the ragged one. Graphs hold the last two; see seqlab/exporting/programs.py. A sequence
of length 0 is legal, and so is a batch of none, but in graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.exporting.equal_lengths import by_length
from seqlab.exporting.programs import BLOCK, Program
from seqlab.ragged import Layout, Ragged, inside_of, offsets_of

Outputs = dict[str, Tensor]  # by name, rows in the order of `Adapter.expected`
Run = Callable[..., Sequence[Tensor]]  # a program that was loaded


class Adapter:
    """One kind of model in all formats.

    A subclass says how its model is called. `model` is the trained model, or a copy in the form of a format.

    Attributes:
        kind: what people call such a model.
        ragged_call, padded_call: the two ways into TorchScript, for docs/deploy.md.
        reads_masks: whether the token beyond the vocabulary is a mask.
    """

    kind: str
    ragged_call: str
    padded_call: str
    reads_masks = False

    def __init__(self, model: Any) -> None:
        self.model = model

    # ---- eager mode

    def random_batch(self, context: Mapping[str, Any], lengths: Sequence[int], draw: torch.Generator) -> Batch:
        """Return a batch of random tokens with these lengths [B], and whatever else the model reads.

        Args:
            context: the sizes of vocabularies; see `Vocabularies.build_context`.
        """
        layout = Layout(torch.tensor(lengths, dtype=torch.int64))
        tokens = random_numbers(context["vocabulary"] + self.reads_masks, layout, draw)
        none = torch.zeros(len(lengths), dtype=torch.int64)
        return Batch(tokens, tokens, torch.arange(len(lengths)), none, self.random_extras(context, layout, draw))

    def random_extras(self, context: Mapping[str, Any], layout: Layout, draw: torch.Generator) -> dict[str, Ragged]:
        """Return the further inputs of a random batch: none, unless a subclass says so."""
        return {}

    def expected(self, batch: Batch) -> Outputs:
        """Return the outputs of eager mode, from Ragged."""
        raise NotImplementedError

    def settled(self, got: Outputs, best: Outputs, batch: Batch, atol: float, rtol: float) -> Outputs:
        """Return `got`, with outputs of `best` in place of those that are as good. By default none are replaced."""
        return got

    # ---- TorchScript

    def signature(self) -> nn.Module:
        """Return the module that TorchScript compiles, around `model`; it records no gradients."""
        raise NotImplementedError

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        """Put a batch to the ragged way of a compiled signature."""
        raise NotImplementedError

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        """Put a batch to the padded way of a compiled signature. The padding holds -1, which is no token."""
        raise NotImplementedError

    # ---- graphs

    def programs(self) -> list[Program]:
        """Return the programs of a model that `to_padded` has made."""
        raise NotImplementedError

    def call_equal(self, run: Run, batch: Batch) -> Outputs:
        """Put a batch, in which every sequence has a token, to the program `equal`."""
        raise NotImplementedError

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        """Put a batch to the programs for padded blocks, by their names. The padding holds -1, which is no token."""
        raise NotImplementedError

    @property
    def longest(self) -> int | None:
        """The longest sequence whose positions the model knows; None: any."""
        longest: int | None = self.model.max_length
        return longest

    def program(
        self, name: str, module: nn.Module, inputs: dict[str, Any], outputs: list[str], **sizes: Any
    ) -> Program:
        """Make a program; an input that `sizes` does not name is a block [N, L]."""
        return Program(
            name, module.eval(), inputs, {key: sizes.get(key, BLOCK) for key in inputs}, outputs, self.longest
        )


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
