"""A trained model at work: texts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqlab.bundle import Bundle
from seqlab.models.decoding import Decoding, generate
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged

AT_ONCE = 64  # hypotheses: bounds the memory that states take; what is written does not depend on it


class Predictor:
    """Continues texts with a language model."""

    def __init__(self, bundle: Bundle) -> None:
        assert isinstance(bundle.task.model, LanguageModel)
        self.model = bundle.task.model
        self.tokenizer = bundle.tokenizer

    def complete(self, prompts: Sequence[str], decoding: Decoding, seed: int = 0) -> list[str]:
        """What the model writes after each prompt, the best hypothesis; an empty prompt starts a text.

        Prompts of any lengths share a batch, leave it as they end, and others take their places. Each draws from a
        generator of its own, seeded by `seed` and its place, so that the same prompt in the same place is always
        continued alike.
        """
        if not prompts:
            return []
        end = self.tokenizer.end
        tokens = [torch.tensor([end, *ids]) for ids in self.tokenizer.encode(prompts)]
        batch = Ragged.from_list(tokens).to(next(self.model.parameters()).device)
        seeds = [seed + 1_000_003 * i for i in range(len(batch))]
        written = generate(self.model, batch, end, decoding, seeds, at_once=AT_ONCE)
        return [self.tokenizer.decode(best.tokens.tolist()) for best, *_ in written]
