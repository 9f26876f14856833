"""Where a model looks: for each token that it writes, or for its one answer, how much it takes of each that it reads.

Nobody watches while answers are computed, in company of others. An answer is read once more, alone: given the tokens
before it, attention of each token is what it was when that token was chosen, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from os.path import commonprefix
from typing import Any

import torch

from seqlab.inference.predictor import Predictor, Request
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention
from seqlab.layers.pooling import AttentionPooling
from seqlab.layers.watch import watching
from seqlab.models.classifier import Classifier
from seqlab.models.hypothesis import Hypothesis
from seqlab.models.seq2seq import Seq2Seq
from seqlab.ragged import Ragged
from seqlab.text.tokenizer import Tokenizer

MOST = 256  # tokens, read and written, of what is told by HTTP: the table of their weights is the size of an answer
MARK = "<end>"


def attends(predictor: Predictor) -> bool:
    """Whether the model has attention that says what an answer looks at."""
    model = predictor.task.model
    layers = model.modules() if isinstance(model, Seq2Seq | Classifier) else ()
    return any(isinstance(layer, GlobalAttention | CrossAttention | AttentionPooling) for layer in layers)


def attention_of(predictor: Predictor, request: Request, hypothesis: Hypothesis | None = None) -> dict[str, Any]:
    """What the model looks at, for people: plain values that JSON can hold.

        source   what was read, token by token
        target   what was written, token by token; where it ended by itself, the end mark is the last
        weights  a row for each token of the target, [L, L']: how much it takes of each of the source. Each adds up to 1

    Of several layers it is the last, of several heads their mean: a convention, for every layer and head has its own.

    Args:
        predictor: with a model that `attends`.
        request: an item that has been read.
        hypothesis: one of those that `predictor.task.predict(predictor.batch([request]))` writes for it; None: the
            model is a classifier, whose weights are one row, without target.
    """
    task = predictor.task
    vocabularies = predictor.vocabularies
    batch = predictor.batch([request])
    told: dict[str, Any] = {"source": pieces(vocabularies.tokenizer, batch.tokens.values.tolist())}
    with torch.no_grad(), watching() as seen:
        if hypothesis is None:
            task.model(batch.tokens)
        else:
            prompts, state = task.begin(batch)
            # What chooses a token is the row that has read the one before it, and the first has an end mark before it:
            # read     <end> y1 y2
            # chosen   y1    y2 <end>, which is missing where writing was cut
            begin, ending = prompts.values[:1], prompts.values[: int(hypothesis.finished)]
            chosen = torch.cat([prompts.values[1:], hypothesis.tokens.to(begin), ending])
            task.model(Ragged.from_list([torch.cat([begin, chosen[:-1]])[: len(chosen)]]), state)
            told["target"] = pieces(vocabularies.written, chosen.tolist())
    (weights_HLM,) = seen[-1].weights
    return {**told, "weights": weights_HLM.mean(0).tolist()}


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text, so that all of them joined are the text; an end mark is "<end>". Of several
    tokens that are one character together, the last adds it."""
    found: list[str] = []
    for marks, run in groupby(ids, lambda token: token == tokenizer.end):
        tokens = list(run)
        if marks:
            found += [MARK] * len(tokens)
            continue
        text = tokenizer.decode(tokens)
        begun = (
            len(commonprefix([text, tokenizer.decode(tokens[:n])]))  # noqa: RUF071  by characters, as it should
            for n in range(1, len(tokens))
        )
        found += [text[begin:end] for begin, end in pairwise([0, *accumulate(begun, max), len(text)])]
    return found


def fits(request: Request, hypothesis: Hypothesis | None = None) -> bool:
    """Whether no more than MOST tokens are read, and no more written, the end marks included; without a hypothesis, as
    far as is known before."""
    read = min(request.tokens, len(request.row["tokens"][0]))  # a text to be classified may be cut
    written = len(request.row["written"][0]) - 1 if "written" in request.row.column_names else 0
    if hypothesis is not None:
        written += len(hypothesis.tokens) + hypothesis.finished
    return max(read, written) <= MOST


def rounded(attention: dict[str, Any]) -> dict[str, Any]:
    """The same with weights of three decimals."""
    return {**attention, "weights": [[round(weight, 3) for weight in row] for row in attention["weights"]]}
