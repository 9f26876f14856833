"""How a batch is put to programs of blocks (programs.py); answers lie as those of `parity.expected`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.exporting.equal_lengths import by_length
from seqlab.exporting.parity import Call, Outputs, in_parts, starts_of
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged

Run = Callable[..., Sequence[Tensor]]


def calls(runs: Mapping[str, Run], model: nn.Module) -> dict[str, Call]:
    """By the name of their signature; `runs` are programs that were loaded, by name."""
    padded: dict[str, Call] = {"padded": partial(ask_padded, runs, model)}
    return {**({"equal": partial(ask_equal, runs["equal"], model)} if "equal" in runs else {}), **padded}


def ask_equal(run: Run, model: nn.Module, batch: Batch) -> Outputs:
    """Of sequences that all have a token."""
    if isinstance(model, Tagger):
        begins = batch.tokens.with_values(starts_of(batch))
        given = batch.tokens.to_list(), begins.to_list()
        labels, probabilities = (torch.cat(rows) for rows in by_length(run, *given, outputs=2))
        return {"labels": labels[begins.values != 0], "probabilities": probabilities[begins.values != 0]}
    (rows,) = by_length(run, batch.tokens.to_list())
    match model:
        case Classifier():
            return {"answers": torch.stack(rows)}
        case MaskedLanguageModel():
            return {"scores": torch.cat(rows)}
    return {"scores": torch.stack(rows)}


def ask_padded(runs: Mapping[str, Run], model: nn.Module, batch: Batch) -> Outputs:
    """Of any sequences. What stands in the padding is no token at all."""
    ids, mask = block(batch.tokens)
    there = mask != 0
    match model:
        case Classifier():
            return {"answers": runs["padded"](ids, mask)[0][: len(batch)]}
        case MaskedLanguageModel():
            return {"scores": runs["padded"](ids, mask)[0][there]}
        case Tagger(word_vectors=None):
            starts, _ = block(batch.tokens.with_values(starts_of(batch)))
            begins = there & (starts != 0)
            return dict(
                zip(("labels", "probabilities"), (x[begins] for x in runs["padded"](ids, mask, starts)), strict=True)
            )
        case Tagger():
            pieces = batch.extras["pieces"]
            spelled = block(Ragged(batch.tokens.values, Layout(pieces.values)))
            ids, mask = (block(pieces.with_values(of_words[: len(pieces.values)]))[0] for of_words in spelled)
            mask = mask * (ids != -1)
            words = [block(batch.extras["words"])[0]] if "words" in batch.extras else []
            there = mask.amax(2) != 0
            found = runs["padded"](ids, mask, *words)
            return {"labels": found[0][there], "probabilities": found[1][there]}
        case LanguageModel():
            return {"scores": written(batch.tokens, runs["padded"], runs["step"], [])}
        case Seq2Seq():
            given = runs["encode"](ids, mask)
            prefix = batch.extras["prefix"]
            return {"scores": written(prefix, runs["step"], runs["step"], list(given))}
    raise ValueError(f"{type(model).__name__} has no programs")


def block(texts: Ragged) -> tuple[Tensor, Tensor]:
    """Right-padded, -1 in the padding, and the mask; at least one row and one column."""
    lengths = texts.lengths if len(texts) else torch.zeros(1, dtype=torch.int64)
    width = max(texts.layout.longest, 1)
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    padded = texts.values.new_full((len(lengths), width, *texts.values.shape[1:]), -1)
    padded[mask != 0] = texts.values
    return padded, mask


def written(texts: Ragged, read: Run, step: Run, given: list[Tensor]) -> Tensor:
    """The scores after the last token of every text that has one; `read` takes its first part, `step` the others.
    `given`: what is handed over besides; of it the state, its end, is replaced by what comes."""
    scores, run = torch.zeros(0), read
    for part in in_parts(texts):
        scores, *state = run(*block(part), *given)
        given, run = given[: len(given) - len(state)] + state, step
    return scores[: len(texts)][texts.lengths > 0]
