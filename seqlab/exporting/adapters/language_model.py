"""Language models outside seqlab: texts to the scores [B, V], before the softmax, of the token that follows each.

A text begins with the end mark. A call returns the state after its tokens, and another call continues from there by any
number of tokens of each sequence. Where a sequence brings no token its scores mean nothing, and its state stays.
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
from seqlab.models.language_model import LanguageModel


class LanguageModelSignature(nn.Module):
    """The ragged and the padded way, for TorchScript."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.last = LastPooling()

    def forward(self, tokens: Tensor, offsets: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """`state` is what the call before returned; at the beginning an empty list."""
        with torch.no_grad():
            lengths = tensors.lengths_of(tokens, offsets)
            past: list[Tensor] | None = None
            if len(state) > 0:
                past = state
            hidden_TD, after = self.model.encoder.core(tokens, lengths, past)
            return self.model.head.scores(self.last.core(hidden_TD, lengths)), after

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read whole texts."""
        tokens, offsets = tensors.gathered(ids, mask)
        nothing: list[Tensor] = []
        return self.forward(tokens, offsets, nothing)[0]


class EqualLanguageModel(nn.Module):
    """Tokens [N, L] of one length, for graphs; scores alone."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.last = PaddedLastPooling()

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return self.read(tokens, None, None)[:1]

    def read(self, tokens: Tensor, lengths: Any, state: list[Tensor] | None) -> tuple[Tensor, ...]:
        hidden_NLD, after = self.model.encoder.core(tokens, lengths, state)
        return self.model.head.scores(self.last.core(hidden_NLD, lengths)), *tensors.row_major(after)


class PaddedLanguageModel(EqualLanguageModel):
    """The same, padded, with the state after each sequence."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.read(*tensors.block_of(ids, mask), None)


class LanguageModelStep(EqualLanguageModel):
    """The next tokens [N, L] of sequences in that state."""

    def forward(self, ids: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.read(*tensors.block_of(ids, mask), [*rest])


class LanguageModelAdapter(Adapter):
    """One row of scores for each sequence that has a token."""

    kind = "language model"
    ragged_call = "`forward(tokens, offsets, state)` → scores [B, V] of what follows, state"
    padded_call = "`padded(ids, mask)` → scores"

    def expected(self, batch: Batch) -> Outputs:
        hidden = self.model(batch.tokens)[0]
        return {"scores": self.model.head.scores(hidden.values[hidden.offsets[1:][hidden.lengths > 0] - 1])}

    def signature(self) -> nn.Module:
        return LanguageModelSignature(self.model)

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        return {"scores": scores_by_signature(batch.tokens, script, [])}

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        return {"scores": script.padded(*tensors.padded_batch(batch.tokens))[batch.tokens.lengths > 0]}

    def programs(self) -> list[Program]:
        plain, block = tensors.example_block()
        state, axes = example_state(self.model.encoder.stack, 3)
        outputs = ["scores", *(f"state_{i}_after" for i in range(len(state)))]
        given = {**block, "state": state}
        return [
            self.program("equal", EqualLanguageModel(self.model), plain, ["scores"]),
            self.program("padded", PaddedLanguageModel(self.model), block, outputs),
            self.program("step", LanguageModelStep(self.model), given, outputs, state=axes),
        ]

    def call_equal(self, run: Run, batch: Batch) -> Outputs:
        (rows,) = tensors.in_equal_blocks(run, batch.tokens)
        return {"scores": torch.stack(rows)}

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        return {"scores": scores_by_programs(batch.tokens, runs["padded"], runs["step"], [])}
