"""Classifiers outside seqlab: texts to the probability of every label [B, C], or to a number [B]."""

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
from seqlab.models.classifier import Classifier


class ClassifierSignature(nn.Module):
    """The ragged and the padded way, for TorchScript."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.answer(self.model.core(tokens, tensors.lengths_of(tokens, offsets))[0])

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens, offsets = tensors.gathered(ids, mask)
        return self.forward(tokens, offsets)


class EqualClassifier(nn.Module):
    """Tokens [N, L] of one length, for graphs."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return self.answers(tokens, None)

    def answers(self, tokens: Tensor, lengths: Any) -> tuple[Tensor, ...]:
        return (self.model.answer(self.model.core(tokens, lengths)[0]),)


class PaddedClassifier(EqualClassifier):
    """The same, padded."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.answers(*tensors.block_of(ids, mask))


class ClassifierAdapter(Adapter):
    """One row of answers for each sequence."""

    kind = "classifier"
    ragged_call = "`forward(tokens, offsets)` → probabilities [B, C], or numbers [B]"
    padded_call = "`padded(ids, mask)` → the same"

    def expected(self, batch: Batch) -> Outputs:
        return {"answers": self.model.answer(self.model(batch.tokens))}

    def signature(self) -> nn.Module:
        return ClassifierSignature(self.model)

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        return {"answers": script(batch.tokens.values, batch.tokens.offsets)}

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        return {"answers": script.padded(*tensors.padded_batch(batch.tokens))}

    def programs(self) -> list[Program]:
        plain, block = tensors.example_block()
        return [
            self.program("equal", EqualClassifier(self.model), plain, ["answers"]),
            self.program("padded", PaddedClassifier(self.model), block, ["answers"]),
        ]

    def call_equal(self, run: Run, batch: Batch) -> Outputs:
        (rows,) = tensors.in_equal_blocks(run, batch.tokens)
        return {"answers": torch.stack(rows)}

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        return {"answers": runs["padded"](*tensors.padded_batch(batch.tokens, at_least=1))[0][: len(batch)]}
