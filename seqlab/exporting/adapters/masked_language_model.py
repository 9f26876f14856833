"""Masked language models outside seqlab: texts with mask tokens to the scores of what stands in each place [T, V].

The number of the mask token is that of tokens in the vocabulary. Scores are those before the softmax.
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
from seqlab.exporting.programs import Program
from seqlab.models.masked_language_model import MaskedLanguageModel


class MaskedLanguageModelSignature(nn.Module):
    """The ragged and the padded way, for TorchScript."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.head.scores(self.model.core(tokens, tensors.lengths_of(tokens, offsets))[0])

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens, offsets = tensors.gathered(ids, mask)
        scores_TV = self.forward(tokens, offsets)
        scores = scores_TV.new_zeros([ids.shape[0], ids.shape[1], scores_TV.shape[1]])
        scores[mask != 0] = scores_TV
        return scores


class EqualMaskedLanguageModel(nn.Module):
    """Tokens [N, L] of one length, for graphs; scores [N, L, V]."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return (self.scores(tokens, None),)

    def scores(self, tokens: Tensor, lengths: Any) -> Tensor:
        return self.model.head.scores(self.model.core(tokens, lengths)[0])


class PaddedMaskedLanguageModel(EqualMaskedLanguageModel):
    """The same, padded; scores are 0 in the padding."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.scores(*tensors.block_of(ids, mask)).masked_fill((mask == 0).unsqueeze(2), 0.0),)


class MaskedLanguageModelAdapter(Adapter):
    """One row of scores for each token."""

    kind = "masked language model"
    ragged_call = "`forward(tokens, offsets)` → scores [T, V]"
    padded_call = "`padded(ids, mask)` → [B, L, V]"
    reads_masks = True

    def expected(self, batch: Batch) -> Outputs:
        return {"scores": self.model.head.scores(self.model(batch.tokens, torch.arange(batch.tokens.layout.total)))}

    def signature(self) -> nn.Module:
        return MaskedLanguageModelSignature(self.model)

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        return {"scores": script(batch.tokens.values, batch.tokens.offsets)}

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        ids, mask = tensors.padded_batch(batch.tokens)
        return {"scores": script.padded(ids, mask)[mask != 0]}

    def programs(self) -> list[Program]:
        plain, block = tensors.example_block()
        return [
            self.program("equal", EqualMaskedLanguageModel(self.model), plain, ["scores"]),
            self.program("padded", PaddedMaskedLanguageModel(self.model), block, ["scores"]),
        ]

    def call_equal(self, run: Run, batch: Batch) -> Outputs:
        (rows,) = tensors.in_equal_blocks(run, batch.tokens)
        return {"scores": torch.cat(rows)}

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        ids, mask = tensors.padded_batch(batch.tokens, at_least=1)
        return {"scores": runs["padded"](ids, mask)[0][mask != 0]}
