"""Figures of generated text. BLEU and chrF are 0 to 100, and those of sacrebleu, whose signatures they carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqlab.errors import InputError, did_you_mean
from seqlab.tasks.metrics.metric import Metric
from seqlab.tasks.metrics.rates import rates


@dataclass(frozen=True)
class ExactMatch(Metric):
    """The share of sequences, of text or of ids, that equal what they should be."""

    main = "exact_match"
    reads_ids = True

    def tally(self, predicted: Sequence[object], targets: Sequence[object]) -> Tensor:
        """[2] int64: equal, all."""
        pairs = zip(predicted, targets, strict=True)
        return torch.tensor([sum(one == other for one, other in pairs), len(targets)])

    def read(self, tally: Tensor) -> dict[str, float]:
        equal, all = tally.double()
        return {"exact_match": (equal / all).item()}


class Bleu(Metric):
    """Corpus BLEU (Papineni et al. 2002), to the last bit what sacrebleu (Post 2018) gives for all sentences at once.

    `signature` says what else decides the figure: references, case, tokenization, smoothing, version.

    Args:
        tokenize: how sacrebleu splits text into words: "13a" as at WMT, "intl", "zh", "char", ...; "none" where
            blanks do so already.
        lowercase: whether capitals count as small letters.

    Raises:
        InputError: sacrebleu is not installed, or knows no such tokenization.
    """

    main = "bleu"

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        known = _sacrebleu().BLEU.TOKENIZERS
        if tokenize not in known:
            hint = did_you_mean(tokenize, known)
            raise InputError(f"sacrebleu has no tokenization {tokenize!r}{hint}; it has {', '.join(known)}")
        self._bleu = _sacrebleu().BLEU(lowercase, force=True, tokenize=tokenize)  # force: do not warn of tokenized text
        self.signature = _signature(self._bleu)
        self.needs_whole_text = tokenize != "none"  # of words between blanks a tokenizer of words loses nothing

    def tally(self, predicted: Sequence[str], targets: Sequence[str]) -> Tensor:
        """[10] int64: words predicted and there; for n = 1 to 4 n-grams that match; n-grams predicted."""
        assert len(predicted) == len(targets)
        if not predicted:
            return torch.zeros(10, dtype=torch.int64)
        score = self._bleu.corpus_score(predicted, [targets])
        return torch.tensor([score.sys_len, score.ref_len, *score.counts, *score.totals])

    def read(self, tally: Tensor) -> dict[str, float]:
        """nan where no words are there and none predicted."""
        predicted, there, *ngrams = (int(count) for count in tally.tolist())
        score = self._bleu.compute_bleu(ngrams[:4], ngrams[4:], predicted, there, self._bleu.smooth_method).score
        return {"bleu": score if predicted or there else math.nan}


class ChrF(Metric):
    """chrF2 (Popović 2015): F of character n-grams without blanks, n = 1 to 6, in which recall weighs twice.

    `signature` says what else decides the figure.

    Raises:
        InputError: sacrebleu is not installed.
    """

    main = "chrf"
    needs_whole_text = True

    def __init__(self) -> None:
        self._ngrams = _sacrebleu().extract_char_ngrams
        self.signature = _signature(_sacrebleu().CHRF())

    def tally(self, predicted: Sequence[str], targets: Sequence[str]) -> Tensor:
        """[6, 3] int64: for every n the n-grams that match, are predicted, are there.

        As in sacrebleu, n-grams are not held against a sentence whose reference is too short to have any.
        """
        counts = torch.zeros(6, 3, dtype=torch.int64)
        for one, other in zip(predicted, targets, strict=True):
            for n in range(1, 7):
                ours, theirs = self._ngrams(one, n), self._ngrams(other, n)
                if theirs:
                    counts[n - 1] += torch.tensor([(ours & theirs).total(), ours.total(), theirs.total()])
        return counts

    def read(self, tally: Tensor) -> dict[str, float]:
        """Precision and recall are means over the n that both sides have n-grams of. nan where no text is there."""
        if not tally.any():
            return {"chrf": math.nan}
        both = (tally[:, 1:] > 0).all(1)
        precision, recall = (rate.mean().item() for rate in rates(tally[both])[:2])
        return {"chrf": 100 * 5 * precision * recall / (4 * precision + recall) if tally[:, 0].any() else 0.0}


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise InputError("BLEU and chrF are sacrebleu's, which is not installed: pip install 'seqlab[mt]'") from error
    return sacrebleu


def _signature(metric: Any) -> str:
    metric.corpus_score([""], [[""]])  # which tells it the number of references
    return str(metric.get_signature())
