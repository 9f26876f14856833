"""Masked language modelling: predict tokens that are hidden, from what stands on both sides of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.models.decoding import Decoding
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.ragged import Ragged
from seqlab.tasks.metrics.metric import Metric, choose_metrics
from seqlab.tasks.task import StepOutput, Task, perplexity, seeds_of, terms_of

LIKELIEST = 20  # of the tokens that may stand in a place, how many are known


class Filled(NamedTuple):
    """What a model says of a text: its tokens [L], the N hidden rows among them, and of each the likeliest tokens
    [N, K] with their probabilities [N, K], likeliest first."""

    tokens: Tensor
    rows: Tensor
    likeliest: Tensor
    probabilities: Tensor


class MaskedLanguageModeling(Task):
    """Nats per hidden token, and their perplexity (Devlin et al. 2019, section 3.1).

    Of the n tokens of a text behind its first, which is the end mark, ceil(share * n) are predicted; all are as likely
    to be chosen. In the place of a chosen token the model reads the mask, or a random token, or the token itself. While
    training, this is drawn anew each time; in evaluation from the example's number, so that it repeats, and company
    changes nothing.

    Args:
        model: the masked language model.
        share: of the tokens that are predicted.
        masked: share of these for which the mask is read.
        random: share of these for which any token of the vocabulary is read.
        metrics: metrics of your own. Each is passed, as `predicted` and `targets`, the scores [N, V] of the hidden
            tokens, before the softmax, and the tokens [N] int64.

    Raises:
        ValueError: a share is out of its range.
        InputError: a metric is given by name; there is none.
    """

    model: MaskedLanguageModel

    def __init__(
        self,
        model: MaskedLanguageModel,
        share: float = 0.15,
        masked: float = 0.8,
        random: float = 0.1,
        metrics: Sequence[str | Metric] = (),
    ) -> None:
        if not 0 < share <= 1 or not 0 <= masked <= 1 or not 0 <= random <= 1 - masked + 1e-9:
            raise ValueError(
                f"share={share}, masked={masked}, random={random}: expected shares, of which share is more than 0, and "
                "masked and random together at most 1"
            )
        self.model = model
        self.share, self.masked, self.random = share, masked, random
        self.metrics_by_name = choose_metrics(metrics, {})

    def chosen(self, lengths: Tensor) -> Tensor:
        """[B] int64: how many tokens of each text are predicted."""
        products = self.share * (lengths - 1).clamp(min=0).double()
        return (products - 1e-9).ceil().long()  # one may be a bit above the number it stands for

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"loss": int(self.chosen(batch.tokens.lengths).sum())}
        return {**counts, **dict.fromkeys(self.model.costs, batch.tokens.layout.total)}

    def step(self, batch: Batch) -> StepOutput:
        tokens, rows_N = self.hide(batch)
        hidden_ND, costs = self.model.encode(tokens, rows_N)
        targets_N = batch.tokens.values[rows_N]
        terms = terms_of(self.model.head.loss(hidden_ND, targets_N), costs, self.model.costs, self.counts(batch))
        if self.model.training or not self.metrics_by_name:
            return StepOutput(terms)
        return StepOutput(terms, self.tally(self.model.head.scores(hidden_ND), targets_N))

    def hide(self, batch: Batch) -> tuple[Ragged, Tensor]:
        """What the model reads, and the rows [N] int64 that it predicts, in order."""
        layout = batch.tokens.layout
        if self.model.training:
            place_T, fate_T, other_T = torch.rand(3, layout.total, dtype=torch.float64)
        else:
            place_T, fate_T, other_T = torch.cat(
                [
                    torch.rand(3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
                    for length, seed in zip(layout.lengths.tolist(), seeds_of(batch, 0), strict=True)
                ]
                or [torch.zeros(3, 0, dtype=torch.float64)],
                1,
            )
        order_T = (2 * layout.segments + place_T + (layout.positions == 0)).argsort()  # within texts, the first last
        rows_N = order_T[layout.positions < self.chosen(layout.lengths)[layout.segments]].sort().values
        other_N, mask = (other_T[rows_N] * self.model.mask).long(), self.model.mask
        other_N = other_N.masked_fill(fate_T[rows_N] < self.masked, mask)
        device = batch.tokens.device
        changed_N, rows_N, other_N = (
            x.to(device) for x in (fate_T[rows_N] < self.masked + self.random, rows_N, other_N)
        )
        values_T = batch.tokens.values
        read_T = values_T.index_copy(0, rows_N, torch.where(changed_N, other_N, values_T[rows_N]))
        return batch.tokens.with_values(read_T), rows_N

    def flops(self, batch: Batch) -> float:
        return self.model.flops(batch.tokens.lengths, self.counts(batch)["loss"])

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        return super().metrics({**averages, "ppl": perplexity(averages["loss"])}, tallies)

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Filled]:
        """Return the likeliest tokens where a text has mask tokens; in a batch without any, those that `hide` hides."""
        tokens, rows_N = batch.tokens, (batch.tokens.values == self.model.mask).nonzero().flatten()
        if not len(rows_N):
            tokens, rows_N = self.hide(batch)
        with torch.no_grad():
            probabilities_NV = self.model.head.probabilities(self.model(tokens, rows_N))
        top = probabilities_NV.topk(min(LIKELIEST, self.model.mask), 1)
        begins, sizes = tokens.offsets[:-1], torch.bincount(tokens.layout.segments[rows_N.cpu()], minlength=len(tokens))
        parts = (rows_N.split(sizes.tolist()), top.indices.split(sizes.tolist()), top.values.split(sizes.tolist()))
        return [
            Filled(text, rows - begin, likeliest, probabilities)
            for text, begin, rows, likeliest, probabilities in zip(
                tokens.to_list(), begins.tolist(), *parts, strict=True
            )
        ]

    @property
    def max_length(self) -> int | None:
        return self.model.max_length
