"""Sequence-to-sequence models outside seqlab: sources are read once, by `encode` or `padded`, and targets written by
`step`.

A target begins with the end mark. `step` returns the scores [B, V], before the softmax, of the token that follows each
target, and the state after its tokens. Where a target brings no token its scores mean nothing, and its state stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.exporting.adapters import tensors
from seqlab.exporting.adapters.adapter import Adapter, Outputs
from seqlab.exporting.adapters.tensors import Run
from seqlab.exporting.adapters.writing import example_state, scores_by_programs, scores_by_signature
from seqlab.exporting.padded import PaddedLastPooling
from seqlab.exporting.programs import Program
from seqlab.layers.pooling import LastPooling
from seqlab.models.seq2seq import Seq2Seq
from seqlab.ragged import Layout, Ragged


class Seq2SeqSignature(nn.Module):
    """The ragged and the padded way, for TorchScript."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model
        self.last = LastPooling()

    @torch.jit.export
    def encode(self, tokens: Tensor, offsets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Read sources; return their memory, which stays, and the state of their targets at the beginning."""
        with torch.no_grad():
            lengths = tensors.lengths_of(tokens, offsets)
            memory_TD, _, last = self.model.encoder.read(tokens, lengths)
            return self.model.decoder.begin(memory_TD, lengths, last)

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Read sources, the padded way."""
        tokens, offsets = tensors.gathered(ids, mask)
        return self.encode(tokens, offsets)

    @torch.jit.export
    def step(
        self, tokens: Tensor, offsets: Tensor, memory: list[Tensor], state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Read the next tokens of every target."""
        with torch.no_grad():
            lengths = tensors.lengths_of(tokens, offsets)
            hidden_TD, after = self.model.decoder.core(tokens, lengths, memory, state)
            return self.model.head.scores(self.last.core(hidden_TD, lengths)), after


class Seq2SeqEncode(nn.Module):
    """Sources [N, L] to their memory and the state of their targets, for graphs."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        tokens, lengths = tensors.block_of(ids, mask)
        hidden_NLD, _, last = self.model.encoder.read(tokens, lengths)
        memory, state = self.model.decoder.begin(hidden_NLD, lengths, last)
        # No output may be another, or an input.
        return tuple(tensor.clone() for tensor in tensors.row_major(memory + state))


class Seq2SeqStep(nn.Module):
    """The next tokens [N, L] of targets, with the memory and the state, for graphs."""

    def __init__(self, model: Seq2Seq, memories: int) -> None:
        super().__init__()
        self.model = model
        self.memories = memories
        self.last = PaddedLastPooling()

    def forward(self, ids: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        tokens, lengths = tensors.block_of(ids, mask)
        memory, state = [*rest[: self.memories]], [*rest[self.memories :]]
        hidden_NLD, after = self.model.decoder.core(tokens, lengths, memory, state)
        return self.model.head.scores(self.last.core(hidden_NLD, lengths)), *tensors.row_major(after)


class Seq2SeqAdapter(Adapter):
    """One row of scores for each target that has a token."""

    kind = "sequence to sequence"
    ragged_call = (
        "`encode(tokens, offsets)` → memory, state; `step(tokens, offsets, memory, state)` → scores [B, V] of what "
        "follows, state"
    )
    padded_call = "`padded(ids, mask)` → memory, state"

    def random_extras(self, context: Mapping[str, Any], layout: Layout, draw: torch.Generator) -> dict[str, Ragged]:
        prefix = Layout(layout.lengths.roll(1))  # some are behind an empty source
        return {"prefix": tensors.random_numbers(context["target_vocabulary"], prefix, draw)}

    def expected(self, batch: Batch) -> Outputs:
        hidden = self.model(batch.extras["prefix"], self.model.remember(batch.tokens))[0]
        return {"scores": self.model.head.scores(hidden.values[hidden.offsets[1:][hidden.lengths > 0] - 1])}

    def signature(self) -> nn.Module:
        return Seq2SeqSignature(self.model)

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        return self.write(script, batch, *script.encode(batch.tokens.values, batch.tokens.offsets))

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        return self.write(script, batch, *script.padded(*tensors.padded_batch(batch.tokens)))

    def write(self, script: Any, batch: Batch, memory: list[Tensor], state: list[Tensor]) -> Outputs:
        """Read the targets of a batch."""

        def step(tokens: Tensor, offsets: Tensor, state: list[Tensor]) -> Any:
            return script.step(tokens, offsets, memory, state)

        return {"scores": scores_by_signature(batch.extras["prefix"], step, state)}

    def programs(self) -> list[Program]:
        _, block = tensors.example_block()
        memory, state, sizes = self.example_memory()
        given = {"memory": memory, "state": state}
        names = [f"{name}_{i}" for name, tensors in given.items() for i in range(len(tensors))]
        after = ["scores", *(f"state_{i}_after" for i in range(len(state)))]
        step = Seq2SeqStep(self.model, len(memory))
        return [
            self.program("encode", Seq2SeqEncode(self.model), block, names),
            self.program("step", step, {**block, **given}, after, **sizes),
        ]

    def example_memory(self) -> tuple[list[Tensor], list[Tensor], dict[str, Any]]:
        """Return an example of the memory and the state of a decoder, and their axes that may have any size."""
        count, width, dtype = 3, self.model.encoder.output_size, self.model.head.weight.dtype
        source = torch.zeros(count, 7, width, dtype=dtype)
        memory, _ = self.model.decoder.begin(source, torch.full([count], 7), [])
        state, of_state = example_state(self.model.decoder.stack, count)
        of_memory = [("sequences", "source")] * (len(memory) - 1) + [("sequences",)] * (len(memory) > 0)
        return memory, state, {"memory": of_memory, "state": of_state}

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        given = [*runs["encode"](*tensors.padded_batch(batch.tokens, at_least=1))]
        return {"scores": scores_by_programs(batch.extras["prefix"], runs["step"], runs["step"], given)}
