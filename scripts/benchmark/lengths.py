"""Lengths of the sequences of a batch, longest first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmark.measure import Skipped
from seqlab.data.plan import make_plan

SPREAD = 0.8  # standard deviation of the logarithm of the lengths, unless said otherwise
_DRAWS = 51


def padding_of(batches: Sequence[Tensor]) -> float:
    """Places of the padded batches, as a multiple of the real tokens."""
    return sum(len(b) * int(b.max()) for b in batches) / sum(int(b.sum()) for b in batches)


def lengths_of(kind: str, sequences: int, mean: int, spread: float = SPREAD) -> Tensor:
    """Log-normal lengths with that mean: a batch as it comes ("random"), or of neighbours in length ("bucketed").

    A random batch is, of 51, the one with the median padding. A bucketed one is the middle of all of them, sorted.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.exp(torch.randn(_DRAWS, sequences, generator=generator) * spread)
    if kind == "random":
        draw = draws[(draws.amax(1) / draws.mean(1)).argsort(stable=True)[_DRAWS // 2]]
    else:
        draw = draws.flatten().sort().values[_DRAWS // 2 * sequences :][:sequences]
    return (draw * mean / draw.mean()).round().long().clamp(min=1).sort(descending=True).values


def equal_lengths(like: Tensor) -> Tensor:
    """As many tokens, in sequences that all have the mean length."""
    mean = max(1, round(like.double().mean().item()))
    return torch.full([max(1, round(int(like.sum()) / mean))], mean)


def real_lengths(name: str, folder: Path) -> Tensor:
    """Whitespace tokens of every sentence (sst, ewt) or line that is not blank (wikitext2) of a training split.

    Raises:
        Skipped: the folder does not hold that text.
    """
    files = {
        "sst": "sst/stsa.fine.train",
        "ewt": "ud_english_ewt/en_ewt-ud-train.conllu",
        "wikitext2": "wikitext2/train.txt",
    }
    try:
        text = (folder / files[name]).read_text(encoding="utf-8")
    except OSError as error:
        raise Skipped(f"no {files[name]} in the folder of --data ({error.strerror})") from error
    if name == "sst":  # a label, then the sentence
        lengths = [len(line.split()) - 1 for line in text.splitlines() if line.strip()]
    elif name == "ewt":  # CoNLL-U: a word has a whole number in its first column
        blocks = [block.splitlines() for block in text.split("\n\n") if block.strip()]
        lengths = [sum(line.partition("\t")[0].isdigit() for line in block) for block in blocks]
    else:
        lengths = [len(line.split()) for line in text.splitlines() if line.strip()]
    return torch.tensor(lengths)


def planned(lengths: Tensor, tokens: int, pool: int, count: int) -> list[Tensor]:
    """The first `count` batches of seqlab's plan of an epoch, which are shuffled; pool=1 is purely random."""
    plan = make_plan(lengths.numpy(), tokens, pool, seed=0, epoch=0)
    return [lengths[plan[i]].sort(descending=True).values for i in range(min(count, len(plan)))]


def length_grouped(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[int]:
    """The order in which Hugging Face's Trainer reads with train_sampling_strategy="group_by_length".

    Shuffled, cut into pools of 50 batches (fewer where that would make less than 4 pools), each sorted, longest first;
    then the longest of all changes places with the first.
    """
    pool = max(1, min(len(lengths) // (batch_size * 4), 50)) * batch_size
    pools = [part.tolist() for part in torch.randperm(len(lengths), generator=generator).split(pool)]
    for part in pools:
        part.sort(key=lambda i: lengths[i], reverse=True)
    longest = max(range(len(pools)), key=lambda i: lengths[pools[i][0]])
    pools[0][0], pools[longest][0] = pools[longest][0], pools[0][0]
    return [i for part in pools for i in part]


def grouped(lengths: Tensor, tokens: int, count: int) -> list[Tensor]:
    """`count` batches of that sampler with `tokens` real tokens on average, evenly spaced over its second pool."""
    size = max(1, round(tokens / lengths.double().mean().item()))
    order = torch.tensor(length_grouped(lengths.tolist(), size, torch.Generator().manual_seed(0)))
    batches = order[: len(order) // size * size].split(size)
    pool = max(1, min(len(lengths) // (size * 4), 50))
    chosen = [pool + int((k + 0.5) * pool / count) for k in range(count)]
    return [lengths[batches[i % len(batches)]] for i in chosen]
