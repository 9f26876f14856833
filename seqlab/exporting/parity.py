"""Parity: compare an exported model with the trained one, on batches of lengths that were not seen in training.

An exported model is a call for each signature ("ragged", "padded", "equal"). A call takes a `Batch` and returns tensors
by name, whose rows are those of eager mode (`Adapter.expected`).

Eager mode has a fast path and a plain one (seqlab/layers/backend.py), which differ by rounding. Where rounding decides
whether a token halts, what follows differs by more, and either is right: the distance of a row from eager mode is that
from the nearer of the two paths. Where rounding decides between two tags, either is right too (ties.py).
"""

from __future__ import annotations

import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from seqlab import __version__
from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.errors import CheckFailedError
from seqlab.exporting.adapters.adapter import Outputs
from seqlab.exporting.adapters.lookup import adapter_of
from seqlab.exporting.requirements import reason
from seqlab.layers.backend import backend

ATOL, RTOL = 2e-5, 1e-4  # float32 over thousands of steps; a token that is read wrongly moves scores by far more
SEQUENCES = (2, 7, 64)  # of the batches of mixed lengths
TOKENS = 2048  # of a batch of several sequences, about
SQUARE = (
    2**24
)  # N * L * L of N sequences beside one of L tokens, which attention on padding wants of memory for each head
UNKNOWN_LONGEST = 128  # of a bundle that tells no lengths

Call = Callable[[Batch], Outputs]


@dataclass(frozen=True)
class Exported:
    """A model that was written, and loaded again from there.

    signatures  of each file, by its name in the folder, what it takes and gives, as export.json tells it
    calls       by the name of their signature
    shortest    the shortest sequence that a call takes, if it does not take any
    """

    signatures: Mapping[str, Any]
    calls: Mapping[str, Call]
    shortest: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Their names in the folder."""
        return tuple(self.signatures)


def compare(bundle: Bundle, exported: Exported) -> dict[str, Any]:
    """Compare a format with eager mode; return what parity.json holds: largest differences, and the time of a batch.

    Raises:
        CheckFailedError: something differs by more than ATOL + RTOL * |value|, or cannot be computed, and so the export
            is not to be used.
    """
    model, adapter = bundle.task.model, adapter_of(bundle.task.model)
    room = adapter.longest
    longest = bundle.longest or bundle.max_length or UNKNOWN_LONGEST
    longest = longest if room is None else min(longest, room)
    batches = cases(longest, room)
    largest: dict[str, dict[str, float]] = {name: {} for name in exported.calls}
    for lengths in batches:
        batch = random_batch(bundle, lengths)
        right = [expected(model, batch)]
        with backend("plain"):
            right.append(expected(model, batch))

        def settled(got: Outputs, batch: Batch, best: Outputs = right[0]) -> Outputs:
            with torch.no_grad():
                return adapter.settled(got, best, batch, ATOL, RTOL)

        for name, call in exported.calls.items():
            if min(lengths, default=0) < exported.shortest.get(name, 0):
                continue
            try:
                found = differences(settled(call(batch), batch), right)
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
        "batches": len(batches),
        "lengths": [min(map(min, filter(None, batches))), max(map(max, filter(None, batches)))],
        "sequences": sorted({len(lengths) for lengths in batches}),
        "longest_in_training": bundle.longest,
        "seconds": {name: seconds(call, batch) for name, call in calls.items()},
        "seconds_of": {"sequences": len(batch), "tokens": batch.num_tokens, "threads": torch.get_num_threads()},
        "versions": {"seqlab": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def cases(longest: int, room: int | None) -> list[list[int]]:
    """Return the lengths of the batches to compare: alone, equal, mixed, and one very long sequence among short ones.

    They go from 0 to four times the longest of training, or to the last position that the model knows (`room`).
    """
    draw = random.Random(0)
    most = 4 * longest if room is None else min(4 * longest, room)
    longest = min(longest, most)
    found = [[1], [longest], [most], [max(longest // 2, 1)] * 3]
    for size in SEQUENCES:
        limit = min(most, 2 * TOKENS // size)
        lengths = [round(limit ** draw.random()) for _ in range(size)]
        if size < max(SEQUENCES):
            lengths[-1] = min(most, math.isqrt(SQUARE // size))
        found.append(lengths)
    return [*found, [], [0], [0, min(3, most), 0, 1, 0]]


def random_batch(bundle: Bundle, lengths: Sequence[int]) -> Batch:
    """Return a batch of random tokens, with whatever else the model reads."""
    draw = torch.Generator().manual_seed(len(lengths) + sum(lengths))
    return adapter_of(bundle.task.model).random_batch(bundle.vocabularies.build_context, lengths, draw)


@torch.no_grad()
def expected(model: nn.Module, batch: Batch) -> Outputs:
    """Return the outputs of eager mode, from Ragged."""
    return adapter_of(model).expected(batch)


def differences(got: Outputs, right: Sequence[Outputs]) -> dict[str, tuple[float, float]]:
    """Return the largest difference of each output, and by how much one exceeds the tolerance.

    The difference of a row is that from the nearest of the right outputs.

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


def _failed(exported: Exported, what: str, lengths: Sequence[int], why: str = "") -> CheckFailedError:
    return CheckFailedError(
        f"{', '.join(exported.files)} is not what was trained, and was not kept: {what} in a batch of lengths "
        f"{_few(lengths)}{why and ': '}{why}"
    )


def seconds(call: Call, batch: Batch) -> float:
    """Return the median time of a call on a batch, after some calls in which compilers still work."""
    taken = []
    for _ in range(8):
        begin = time.perf_counter()
        call(batch)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[3:])


def _few(lengths: Sequence[int]) -> str:
    return f"{', '.join(map(str, lengths[:8]))}{', ...' if len(lengths) > 8 else ''}"
