"""A trained model at work: what people send goes in, what the model answers comes out, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa

from seqlab.bundle import Bundle
from seqlab.data.examples import Examples
from seqlab.data.forms.text import Text
from seqlab.data.plan import make_plan
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError
from seqlab.models.decoding import Decoding

TOKENS_AT_ONCE = 8192  # bounds the memory that activations and states take; answers do not depend on it


class Predictor:
    """Answers with a trained model."""

    def __init__(self, bundle: Bundle) -> None:
        self.task, self.form, self.vocabularies = bundle.task, bundle.form, bundle.vocabularies
        # Text that is to be continued, or filled, is never cut; nor is what training would have split or refused.
        cuts = bundle.over_long == "truncate" and not isinstance(bundle.form, Text)
        self.longest = bundle.max_length if cuts else None

    def predict(
        self, items: Sequence[Mapping[str, Any]], decoding: Decoding | None = None, seed: int = 0
    ) -> list[dict[str, Any]]:
        """What the model says to each item, such as {"label": "positive", ...} to {"text": "A fine film."}.

        Items of any lengths share a batch; a text to be classified is cut as in training. Where something is drawn,
        each draws from a generator of its own, seeded by `seed` and its place, so that the same item in the same place
        is always answered alike.

        Args:
            items: what `form.record` reads.
            decoding: how to write; None: as the model was trained to be judged.

        Raises:
            InputError: an item is too long for the model.
            ValueError: an item is of another kind.
        """
        records = [self.form.record(item) for item in items]
        if not records:
            return []
        known = dict.fromkeys(name for record in records for name in record if name in (*self.form.fields, "pair"))
        columns = {name: [record.get(name) for record in records] for name in known}  # not all have a pair
        rows = self.form.rows(pa.table(columns), self.vocabularies, Rejects())
        examples = Examples(
            datasets.Dataset(datasets.table.InMemoryTable(rows), fingerprint="asked"), self.longest, "truncate"
        )
        longest, room = int(examples.lengths.max()), getattr(self.task.model, "max_length", None)
        if room is not None and longest > room:
            number = int(examples.lengths.argmax()) + 1
            raise InputError(f"item {number} has {longest} tokens, and this model knows {room} positions: cut it")
        device = next(self.task.model.parameters()).device
        told: dict[int, dict[str, Any]] = {}
        plan = make_plan(examples.lengths, max(TOKENS_AT_ONCE, longest), 1, None, 0)
        self.task.model.eval()
        for i in range(len(plan)):
            batch = examples.batch(plan[i])
            answers = self.task.answer(batch.to(device), decoding, seed)
            for example, answer in zip(batch.ids.tolist(), answers, strict=True):
                told[example] = self.form.told(answer, records[example], self.vocabularies)
        return [told[example] for example in range(len(records))]
