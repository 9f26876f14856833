"""BLEU and chrF from sums are those that sacrebleu gives for all sentences at once."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu import BLEU, CHRF

from seqlab.errors import InputError
from seqlab.tasks.metrics.text import Bleu, ChrF, ExactMatch

PREDICTED = [
    "A man, in a blue shirt, stands on his brother's ladder.",
    "Zwei Männer (25 %) reden!",
    "",
    "a b c d e f .",
]
TARGETS = [
    "A man in a blue shirt is standing on his brother's ladder.",
    "Zwei Männer reden miteinander!",
    "Nichts.",
    "a b c d e f .",
]
words = st.sampled_from(["ein", "Mann", "man", "steht", "3,5", "don't", ".", "(x)", "-", "日本"])
sentences = st.lists(words, max_size=9).map(" ".join)
TOKENIZATIONS = ["13a", "none", "intl"]
bleus = {tokenize: Bleu(tokenize) for tokenize in TOKENIZATIONS}
chrf = ChrF()


@pytest.mark.parametrize("tokenize", TOKENIZATIONS)
@given(pairs=st.lists(st.tuples(sentences, sentences), max_size=6), cut=st.integers(0, 10))
def test_bleu_is_sacrebleus_to_the_last_bit(tokenize: str, pairs: list[tuple[str, str]], cut: int) -> None:
    metric = bleus[tokenize]
    predicted, targets = [*PREDICTED, *(one for one, _ in pairs)], [*TARGETS, *(other for _, other in pairs)]
    tally = metric.tally(predicted[:cut], targets[:cut]) + metric.tally(predicted[cut:], targets[cut:])
    expected = BLEU(tokenize=tokenize).corpus_score(predicted, [targets]).score
    assert expected > 1
    assert metric.read(tally)["bleu"] == metric.read(tally.double())["bleu"] == expected


@given(pairs=st.lists(st.tuples(sentences, sentences), max_size=6), cut=st.integers(0, 6))
def test_text_of_all_kinds_scores_as_in_sacrebleu(pairs: list[tuple[str, str]], cut: int) -> None:
    predicted, targets = [one for one, _ in pairs], [other for _, other in pairs]
    for metric, name, theirs in ((bleus["13a"], "bleu", BLEU()), (chrf, "chrf", CHRF())):
        tally = metric.tally(predicted[:cut], targets[:cut]) + metric.tally(predicted[cut:], targets[cut:])
        found = metric.read(tally)[name]
        if any(targets):
            assert found == pytest.approx(theirs.corpus_score(predicted, [targets]).score, rel=1e-12)
        elif not any(predicted):
            assert math.isnan(found)


def test_examples() -> None:
    """sacrebleu 2.6.0, corpus_score(PREDICTED, [TARGETS])."""
    found = {t: round(metric.read(metric.tally(PREDICTED, TARGETS))["bleu"], 2) for t, metric in bleus.items()}
    assert found == {"13a": 50.8, "none": 50.03, "intl": 55.12}
    assert round(chrf.read(chrf.tally(PREDICTED, TARGETS))["chrf"], 2) == 61.32
    lower = Bleu("none", lowercase=True)
    tally = lower.tally(["EIN Mann steht hier"], ["ein mann STEHT HIER"])
    assert lower.read(tally) == {"bleu": pytest.approx(100)}
    assert bleus["none"].read(bleus["none"].tally(["EIN Mann"], ["ein mann"])) == {"bleu": 0}


def test_signatures_are_sacrebleus() -> None:
    for ours, theirs in ((bleus["intl"], BLEU(tokenize="intl")), (chrf, CHRF())):
        theirs.corpus_score(PREDICTED, [TARGETS])
        assert ours.signature == str(theirs.get_signature())
    assert bleus["intl"].signature.startswith("nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp|version:")


def test_sequences_of_any_kind_match_or_do_not() -> None:
    metric = ExactMatch()
    tally = metric.tally(["a", "b ", ""], ["a", "b", ""]) + metric.tally([[1, 2], [], [3]], [[1, 2], [1], [3, 4]])
    assert tally.tolist() == [3, 6]
    assert metric.read(tally) == {"exact_match": 0.5}
    assert math.isnan(metric.read(metric.tally([], []))["exact_match"])
    assert not torch.is_floating_point(tally)


def test_what_sacrebleu_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no tokenization '13' \(did you mean 13a\?\); it has none, zh, 13a, intl"):
        Bleu("13")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for metric in (Bleu, ChrF):
        with pytest.raises(InputError, match=r"not installed: pip install 'seqlab\[mt\]'"):
            metric()
