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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.exporting.adapters.tensors import Run, random_numbers
from seqlab.exporting.programs import BLOCK, Program
from seqlab.ragged import Layout, Ragged

Outputs = dict[str, Tensor]  # by name, rows in the order of `Adapter.expected`


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
