"""Is what was exported what was trained? Both are asked the same, on lengths that nobody has seen in training.

An exported model is some calls, by the name of their signature ("ragged", "padded", ...). A call takes a `Batch`, of
which it reads what the task reads, and gives tensors by name whose rows are those of `expected`, eager mode's answer.
How a format packs a batch is its own affair.

Eager mode has a fast path and a plain one (seqlab/layers/backend.py), which differ by rounding. Where rounding decides
whether a token halts, what follows differs by more, and either is right: so a row is as far from eager mode as from the
nearer of its two paths. Where it decides between two tags either is right too (ties.py).
"""

from __future__ import annotations

import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from seqlab import __version__
from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.errors import CheckFailedError
from seqlab.exporting.requirements import reason
from seqlab.exporting.ties import as_good
from seqlab.layers.backend import backend
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import Layout, Ragged

ATOL, RTOL = 2e-5, 1e-4  # float32 over thousands of steps; a token that is read wrongly moves scores by far more
SEQUENCES = (2, 7, 64)  # of the batches of mixed lengths
TOKENS = 2048  # of a batch of several sequences, about
SQUARE = (
    2**24
)  # N * L * L of N sequences beside one of L tokens, which attention on padding wants of memory for each head
UNKNOWN_LONGEST = 128  # of a bundle that tells no lengths
STEPS = 3  # tokens at the end of a text that are read one by one, each continuing from the state before

Outputs = dict[str, Tensor]
Call = Callable[[Batch], Outputs]


@dataclass(frozen=True)
class Exported:
    """A model as it was written, and loaded again from there.

    signatures  of each file, by its name in the folder, what it takes and gives, as export.json tells it
    calls       by the name of their signature
    shortest    of a call that cannot be asked about just any batch, the shortest sequence there must be in it
    """

    signatures: Mapping[str, Any]
    calls: Mapping[str, Call]
    shortest: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Their names in the folder."""
        return tuple(self.signatures)


def compare(bundle: Bundle, exported: Exported) -> dict[str, Any]:
    """What parity.json tells of a format: the largest difference of each output, and what a batch takes.

    Raises:
        CheckFailedError: something differs by more than ATOL + RTOL * |value|, or cannot be computed, and so the export
            is not to be used.
    """
    model = bundle.task.model
    room = getattr(getattr(model, "encoder", None), "max_length", None)
    longest = bundle.longest or bundle.max_length or UNKNOWN_LONGEST
    longest = longest if room is None else min(longest, room)
    asked = cases(longest, room)
    largest: dict[str, dict[str, float]] = {name: {} for name in exported.calls}
    for lengths in asked:
        batch = random_batch(bundle, lengths)
        right = [expected(model, batch)]
        with backend("plain"):
            right.append(expected(model, batch))
        for name, call in exported.calls.items():
            if min(lengths, default=0) < exported.shortest.get(name, 0):
                continue
            try:
                found = differences(_settled(call(batch), right[0], model, batch), right)
            except Exception as error:  # each format has its own for what it cannot compute
                raise _failed(exported, f"its {name} signature fails", lengths, reason(error)) from error
            for output, (difference, beyond) in found.items():
                largest[name][output] = max(largest[name].get(output, 0.0), difference)
                if beyond > 0:
                    raise _failed(exported, f"{output} of its {name} signature differ by {difference:.1e}", lengths)
    batch = random_batch(bundle, [1 + i * (longest - 1) // 15 for i in range(16)])
    calls = {"eager": lambda batch: expected(model, batch), **exported.calls}
    return {
        "largest_difference": largest,
        "atol": ATOL,
        "rtol": RTOL,
        "batches": len(asked),
        "lengths": [min(map(min, filter(None, asked))), max(map(max, filter(None, asked)))],
        "sequences": sorted({len(lengths) for lengths in asked}),
        "longest_in_training": bundle.longest,
        "seconds": {name: seconds(call, batch) for name, call in calls.items()},
        "seconds_of": {"sequences": len(batch), "tokens": batch.num_tokens, "threads": torch.get_num_threads()},
        "versions": {"seqlab": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def cases(longest: int, room: int | None) -> list[list[int]]:
    """Lengths of the batches to ask: from nothing to four times the longest of training, or to where a model that knows
    only so many positions ends; alone, alike, and mixed, with one very long among few short ones."""
    draw = random.Random(0)
    most = 4 * longest if room is None else min(4 * longest, room)
    longest = min(longest, most)
    asked = [[1], [longest], [most], [max(longest // 2, 1)] * 3]
    for size in SEQUENCES:
        limit = min(most, 2 * TOKENS // size)
        lengths = [round(limit ** draw.random()) for _ in range(size)]
        if size < max(SEQUENCES):
            lengths[-1] = min(most, math.isqrt(SQUARE // size))
        asked.append(lengths)
    return [*asked, [], [0], [0, min(3, most), 0, 1, 0]]


def random_batch(bundle: Bundle, lengths: Sequence[int]) -> Batch:
    """A batch of any tokens, with what else the task reads."""
    context, draw = bundle.vocabularies.build_context, torch.Generator().manual_seed(len(lengths) + sum(lengths))

    def numbers(below: int, layout: Layout) -> Ragged:
        return Ragged(torch.randint(below, (layout.total,), generator=draw), layout)

    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    masks = isinstance(bundle.task.model, MaskedLanguageModel)
    tokens = numbers(context["vocabulary"] + masks, layout)
    extras: dict[str, Ragged] = {}
    if isinstance(bundle.task.model, Tagger):
        pieces = [_words_of(length, draw) for length in lengths]
        words = Layout(torch.tensor([len(row) for row in pieces], dtype=torch.int64))
        extras["pieces"] = Ragged(torch.tensor([*chain.from_iterable(pieces)], dtype=torch.int64), words)
        if context["word_vocabulary"] is not None:
            extras["words"] = numbers(context["word_vocabulary"], words)
    if isinstance(bundle.task.model, Seq2Seq):
        extras["prefix"] = numbers(context["target_vocabulary"], Layout(layout.lengths.roll(1)))  # some behind nothing
    return Batch(tokens, tokens, torch.arange(len(lengths)), torch.zeros(len(lengths)).long(), extras)


@torch.no_grad()
def expected(model: Any, batch: Batch) -> Outputs:
    """What eager mode answers, each from Ragged: of a classifier a row for each sequence, of a tagger one for each
    word, of a masked language model one for each token; of models that write one for each sequence that has a token,
    the scores of what follows it."""
    match model:
        case Classifier():
            return {"answers": model.answer(model(batch.tokens))}
        case Tagger():
            hidden = model(batch.tokens, batch.extras["pieces"], batch.extras.get("words"))
            given = (hidden.values, hidden.lengths)
            return {"labels": model.head.decode(*given), "probabilities": model.head.probabilities(*given)}
        case MaskedLanguageModel():
            return {"scores": model.head.scores(model(batch.tokens, torch.arange(batch.tokens.layout.total)))}
        case LanguageModel():
            hidden = model(batch.tokens)[0]
        case Seq2Seq():
            hidden = model(batch.extras["prefix"], model.remember(batch.tokens))[0]
        case _:
            raise ValueError(f"{type(model).__name__} is none of seqlab's models")
    return {"scores": model.head.scores(hidden.values[hidden.offsets[1:][hidden.lengths > 0] - 1])}


def differences(got: Outputs, right: Sequence[Outputs]) -> dict[str, tuple[float, float]]:
    """Of each output the largest difference, and by how much one goes beyond what is allowed; of every row those from
    the nearest of the right ones.

    Raises:
        ValueError: one has another shape.
    """
    found = {}
    for name in right[0]:
        apart, beyond = [], []
        for values in (outputs[name].double() for outputs in right):
            if got[name].shape != values.shape:
                raise ValueError(f"{name} have the shape {list(got[name].shape)}, and {list(values.shape)} is expected")
            difference = (got[name].double() - values).abs().nan_to_num(torch.inf, torch.inf)
            exact = not got[name].is_floating_point()
            over = difference - (0 if exact else ATOL + RTOL * values.abs())
            apart.append(difference.flatten(1).amax(1) if difference.dim() > 1 else difference)
            beyond.append(over.flatten(1).amax(1) if over.dim() > 1 else over)
        nearest = [float(torch.stack(each).amin(0).max()) if len(each[0]) else 0.0 for each in (apart, beyond)]
        found[name] = (nearest[0], max(nearest[1], 0.0))
    return found


@torch.no_grad()
def _settled(got: Outputs, best: Outputs, model: Any, batch: Batch) -> Outputs:
    """With the best labels in the place of those that are as good."""
    labels = got.get("labels")
    if labels is None or labels.shape != best["labels"].shape or torch.equal(labels, best["labels"]):
        return got
    if bool((labels < 0).any()) or bool((labels >= best["probabilities"].shape[1]).any()):
        return got
    hidden = model(batch.tokens, batch.extras["pieces"], batch.extras.get("words"))
    fine = as_good(model.head, hidden, labels, best["labels"], ATOL, RTOL)
    return {**got, "labels": torch.where(fine, best["labels"], labels)}


def _failed(exported: Exported, what: str, lengths: Sequence[int], why: str = "") -> CheckFailedError:
    return CheckFailedError(
        f"{', '.join(exported.files)} is not what was trained, and was not kept: {what} in a batch of lengths "
        f"{_few(lengths)}{why and ': '}{why}"
    )


def seconds(call: Call, batch: Batch) -> float:
    """Of a call on a batch: the median of some, after some that do not count, in which compilers still learn."""
    taken = []
    for _ in range(8):
        begin = time.perf_counter()
        call(batch)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[3:])


def _words_of(length: int, draw: torch.Generator) -> list[int]:
    """How many pieces, of so many, each word has."""
    pieces: list[int] = []
    while length > 0:
        pieces.append(min(length, int(torch.randint(1, 4, (), generator=draw))))
        length -= pieces[-1]
    return pieces


def _few(lengths: Sequence[int]) -> str:
    return f"{', '.join(map(str, lengths[:8]))}{', ...' if len(lengths) > 8 else ''}"


# ------------------------------------------------------------------------- for the calls of any format


def starts_of(batch: Batch) -> Tensor:
    """[T] int64: 1 where a word begins."""
    starts = torch.zeros(batch.tokens.layout.total, dtype=torch.int64)
    starts[Layout(batch.extras["pieces"].values).offsets[:-1]] = 1
    return starts


def in_parts(texts: Ragged) -> Iterator[Ragged]:
    """The texts but for their last tokens, then these one by one, while texts that have fewer wait with none."""
    lengths = texts.lengths
    bounds = [(lengths - left).clamp(min=0) for left in range(STEPS, -1, -1)]
    for begin, end in zip([torch.zeros_like(lengths), *bounds], bounds, strict=False):
        layout = Layout(end - begin)
        yield Ragged(texts.values[(texts.offsets[:-1] + begin)[layout.segments] + layout.positions], layout)
