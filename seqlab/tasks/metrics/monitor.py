"""Which way a metric gets better."""

from __future__ import annotations

_HIGHER = {"accuracy", "precision", "recall", "f1", "mcc", "match", "bleu", "chrf", "pearson"}


def higher_is_better(name: str) -> bool:
    """Whether a metric of this name is better when it is higher, as `macro_f1`, `exact_match` or `f1/person`.

    The last word before a "/" decides. Any name that is none of these is taken for a cost, as loss, ppl, mse or ece.
    """
    return name.partition("/")[0].rpartition("_")[2] in _HIGHER
