"""A trained model at work: texts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seqlab.bundle import Bundle
from seqlab.models.decoding import generate
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged

PROMPTS_AT_ONCE = 64  # bounds the memory that states take; what is written does not depend on it


class Predictor:
    """Continues texts with a language model."""

    def __init__(self, bundle: Bundle) -> None:
        assert isinstance(bundle.task.model, LanguageModel)
        self.model = bundle.task.model
        self.tokenizer = bundle.tokenizer

    def complete(
        self, prompts: Sequence[str], max_tokens: int = 100, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """What the model writes after each prompt; an empty prompt starts a text.

        Prompts of any lengths share a batch and leave it as they end. Each draws from a generator of its own, seeded by
        `seed` and its place, so that the same prompt in the same place is always continued alike.

        Raises:
            ValueError: the temperature is negative.
        """
        end = self.tokenizer.end
        tokens = [torch.tensor([end, *ids]) for ids in self.tokenizer.encode(prompts)]
        device = next(self.model.parameters()).device
        written: list[str] = []
        for start in range(0, len(tokens), PROMPTS_AT_ONCE):
            part = tokens[start : start + PROMPTS_AT_ONCE]
            seeds = [seed + 1_000_003 * (start + i) for i in range(len(part))]
            batch = Ragged.from_list(part).to(device)
            continued = generate(self.model, batch, end, max_tokens, temperature, seeds)
            written += [self.tokenizer.decode(ids.tolist()) for ids in continued]
        return written
