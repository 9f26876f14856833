"""What is in a prepared corpus, and what batches are made of it: plain numbers, before any model is built.

A section has a number, or a mapping of numbers, for every split, and is of the rows of the prepared tables, before
over-long ones are cut or dropped; batches and padding are of the examples that come out of that.

    rows         of the table, and what became of over-long ones
    lengths      in tokens of what is "read" and "written", in "words" where they are tagged: percentiles
    vocabulary   of each tokenizer: how much of it occurs, and how much of a split it does not know
    words        that have an id of their own
    labels       how often each occurs, and how often one is right who always answers the most frequent
    spans        that tags mark, by type
    batches      of the first epoch, as training makes them
    padding      that other ways to make batches would pay
    repeated     rows whose input also occurs in train, or earlier in their own split
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch

from seqlab.data.corpus import Corpus
from seqlab.data.examples import Int64s, Numbers
from seqlab.data.loader import PlannedLoader
from seqlab.text.tags import mark_spans, tables
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.vocabularies import Vocabularies

PERCENTILES = (5, 25, 50, 75, 95, 99)
DECODED_ROWS = 1000  # of a split, spread evenly, to count its characters: to decode all of a large one takes long
POOL = 50  # batches' worth of examples that are sorted by length together, as many libraries do

Splits = Mapping[str, datasets.Dataset]


def statistics(corpus: Corpus, loaders: Mapping[str, PlannedLoader]) -> dict[str, Any]:
    """All sections that there is something to say in. JSON can hold it."""
    splits, vocabularies = corpus.splits, corpus.vocabularies
    columns = splits["train"].column_names
    found = {
        "source": corpus.metadata["source"],
        "rejected": corpus.metadata["rejected"],
        "rows": {split: {**o.examples.report, "examples": len(o.examples)} for split, o in loaders.items()},
        "lengths": {
            name: {split: summary(part) for split, part in parts.items()} for name, parts in lengths(splits).items()
        },
        "vocabulary": {
            name: vocabulary(splits, of, tokenizer)
            for name, (tokenizer, of) in written_by(vocabularies, columns).items()
        },
    }
    if "words" in columns:
        found["words"] = words(splits)
    if vocabularies.labels is not None:
        found["labels"] = labels(splits, vocabularies.labels)
        if "pieces" in columns and mark_spans(vocabularies.labels):
            found["spans"] = spans(splits, vocabularies.labels)
    elif "targets" in columns:
        found["numbers"] = numbers(splits)
    found["batches"] = {split: batches(loader) for split, loader in loaders.items()}
    found["padding"] = {split: padding(loader) for split, loader in loaders.items()}
    found["repeated"] = repeated(splits)
    return found


# ------------------------------------------------------------------------------------------------------- lengths


def lengths(splits: Splits) -> dict[str, dict[str, Int64s]]:
    """[R] of every split: how many tokens are "read" of each row, how many are "written", how many "words" it has."""
    columns = splits["train"].column_names

    def of(measure: Callable[[datasets.Dataset], Int64s]) -> dict[str, Int64s]:
        return {split: measure(table) for split, table in splits.items()}

    if "written" in columns:
        return {"read": of(lambda t: sizes(t, "tokens")), "written": of(lambda t: sizes(t, "written") - 1)}
    read = {"read": of(lambda table: np.asarray(table.data.column("length").to_numpy(), np.int64))}
    return read | ({"words": of(lambda table: sizes(table, "pieces"))} if "pieces" in columns else {})


def summary(values: Numbers) -> dict[str, float]:
    """A percentile is a value that occurs: the smallest that so many per cent of all do not exceed."""
    found = np.percentile(values, PERCENTILES, method="inverted_cdf").tolist()
    ends = {"min": values.min().item(), **{str(p): x for p, x in zip(PERCENTILES, found, strict=True)}}
    return {**ends, "max": values.max().item(), "mean": float(values.mean()), "total": values.sum().item()}


# ---------------------------------------------------------------------------------------------------- vocabularies


def written_by(vocabularies: Vocabularies, columns: Sequence[str]) -> dict[str, tuple[Tokenizer, tuple[str, ...]]]:
    """Every tokenizer, and the columns that hold its tokens."""
    if "written" not in columns:
        return {"read": (vocabularies.tokenizer, ("tokens",))}
    if vocabularies.target is None:
        return {"read and written": (vocabularies.tokenizer, ("tokens", "written"))}
    return {"read": (vocabularies.tokenizer, ("tokens",)), "written": (vocabularies.target, ("written",))}


def vocabulary(splits: Splits, columns: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """Of running and of distinct tokens, end marks left aside.

    size      of the vocabulary, with the end mark
    distinct  tokens that occur in the split
    used      their share of the vocabulary
    unknown   share of the running tokens that stand for an unknown word; None where there is no such token
    unseen    distinct tokens that do not occur in train, and unseen_share, their share of the running tokens
    bytes_per_token, characters_per_token, tokens_per_word
              of text, found by decoding; None where the tokenizer loses some. Words stand between blanks, unless they
              were given as words
    """
    found: dict[str, Any] = {}
    size = len(tokenizer)
    counts = {split: occurrences(table, columns, size) for split, table in splits.items()}
    for split, table in splits.items():
        count_V = counts[split]
        count_V[tokenizer.end] = 0
        total, distinct = int(count_V.sum()), int((count_V > 0).sum())
        unseen_V = np.where(counts["train"] > 0, 0, count_V)
        found[split] = {
            "tokens": total,
            "distinct": distinct,
            "used": distinct / max(size - 1, 1),
            "unknown": None if tokenizer.unknown is None else share(int(count_V[tokenizer.unknown]), total),
            "unseen": int((unseen_V > 0).sum()),
            "unseen_share": share(int(unseen_V.sum()), total),
            **text(table, columns, tokenizer),
        }
    return {"size": size, "splits": found}


def occurrences(table: datasets.Dataset, columns: Sequence[str], size: int) -> Int64s:
    """[V]: how often each token occurs."""
    count_V = np.zeros(size, np.int64)
    for column in columns:
        for values, _ in chunks(table, column):
            count_V += np.bincount(values, minlength=size)
    return count_V


def text(table: datasets.Dataset, columns: Sequence[str], tokenizer: Tokenizer) -> dict[str, float | None]:
    """Bytes, characters and words that a token stands for, on average over rows spread evenly."""
    chosen = np.linspace(0, len(table) - 1, min(len(table), DECODED_ROWS)).round().astype(np.int64)
    tokens, texts = 0, []
    for column in columns if tokenizer.lossless else ():
        for row in table.data.column(column).take(chosen).to_pylist():
            bounds = [-1, *(i for i, token in enumerate(row) if token == tokenizer.end), len(row)]
            parts = [row[a + 1 : b] for a, b in pairwise(bounds)]
            tokens += sum(map(len, parts))
            texts += [tokenizer.decode(part) for part in parts]
    per_word = ratio(tokens, sum(len(text.split()) for text in texts))
    if "pieces" in table.column_names:
        per_word = ratio(int(sizes(table, "tokens").sum()), int(sizes(table, "pieces").sum()))
    return {
        "bytes_per_token": ratio(sum(len(text.encode()) for text in texts), tokens),
        "characters_per_token": ratio(sum(map(len, texts)), tokens),
        "tokens_per_word": per_word,
    }


def words(splits: Splits) -> dict[str, Any]:
    """Running words, and the share of them that have an id of their own."""
    found = {}
    for split, table in splits.items():
        known = sum(int((values > 0).sum()) for values, _ in chunks(table, "words"))
        total = int(sizes(table, "words").sum())
        found[split] = {"words": total, "known": share(known, total)}
    return found


# ---------------------------------------------------------------------------------------------------------- labels


def labels(splits: Splits, names: Sequence[str]) -> dict[str, Any]:
    """How often each label occurs.

    counts         by name, the most frequent in train first
    targets        all labels that are predicted; ignored are not
    missing        names that do not occur in the split
    none, several  rows without a label, and with more than one, where a row need not have one
    majority       the label that is most frequent in train, and how often it is the right answer in each split; None
                   where a row need not have one
    """
    counted = {split: np.zeros(len(names), np.int64) for split in splits}
    found: dict[str, Any] = {}
    per_row = {split: sizes(table, "targets") for split, table in splits.items()}
    single = all((part == 1).all() for part in per_row.values()) or "pieces" in splits["train"].column_names
    for split, table in splits.items():
        ignored = 0
        for values, _ in chunks(table, "targets"):
            ignored += int((values < 0).sum())
            counted[split] += np.bincount(values[values >= 0], minlength=len(names))
        found[split] = {"rows": len(table), "targets": int(counted[split].sum()), "ignored": ignored}
    order = np.argsort(-counted["train"], kind="stable").tolist()
    for split, count_C in counted.items():
        part = found[split]
        part["counts"] = {names[i]: int(count_C[i]) for i in order}
        part["missing"] = [names[i] for i in order if not count_C[i]]
        if single:
            part["majority"] = share(int(count_C[order[0]]), part["targets"])
        else:
            part["none"] = int((per_row[split] == 0).sum())
            part["several"] = int((per_row[split] > 1).sum())
    return {"majority": names[order[0]] if single else None, "splits": found}


def numbers(splits: Splits) -> dict[str, Any]:
    """Of numbers to predict; `rmse_of_mean` is the error of always answering the mean of train."""
    values = {
        split: np.concatenate([part for part, _ in chunks(table, "targets")]).astype(np.float64)
        for split, table in splits.items()
    }
    mean = values["train"].mean()
    return {
        split: {**summary(part), "rmse_of_mean": float(np.sqrt(np.mean((part - mean) ** 2)))}
        for split, part in values.items()
    }


def spans(splits: Splits, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many spans of each type there are; a word whose tag is ignored is passed over as if it were not there."""
    types, type_C, continues_CC, _, _ = tables(names)
    found = {}
    for split, table in splits.items():
        count = torch.zeros(len(types), dtype=torch.int64)
        for values, row_sizes in chunks(table, "targets"):
            judged = values >= 0
            tags = torch.from_numpy(values[judged]).long()
            rows = np.repeat(np.arange(len(row_sizes)), row_sizes)[judged]
            begins = type_C[tags] >= 0
            begins[1:] &= ~(continues_CC[tags[:-1], tags[1:]] & torch.from_numpy(rows[1:] == rows[:-1]))
            count += torch.bincount(type_C[tags[begins]], minlength=len(types))
        found[split] = dict(zip(types, count.tolist(), strict=True))
    return found


# --------------------------------------------------------------------------------------------- batches and padding


def batches(loader: PlannedLoader) -> dict[str, Any]:
    """Of the first epoch: how many, the tokens and sequences in each, and how much of `batch.tokens` is filled."""
    plan = loader.plan(0)
    per_batch = {
        "tokens": np.add.reduceat(loader.examples.lengths[plan.order], plan.offsets[:-1]),
        "sequences": np.diff(plan.offsets),
    }
    return {
        "batches": len(plan),
        **{name: {"mean": float(x.mean()), "min": int(x.min()), "max": int(x.max())} for name, x in per_batch.items()},
        "fill": float(per_batch["tokens"].mean() / loader.tokens),
    }


def padding(loader: PlannedLoader) -> dict[str, Any]:
    """Places that padding would add if each batch were padded to its longest sequence, on either side of pairs.

    random   batches of as many sequences as ours have on average, at random
    grouped  the same number, of pools of 50 batches sorted by length
    ours     our batches, were they padded

    Each with the `cells` of all rectangles, the `share` of them that is padding, and `times` the real tokens that they
    are. Drawn once, with a seed of its own.
    """
    plan, sides = loader.plan(0), [side[np.sort(loader.plan(0).order)] for side in loader.examples.sides]
    examples = len(plan.order)
    number = max(1, round(examples / len(plan)))
    shuffled = np.random.default_rng(0).permutation(examples)
    bounds = np.append(np.arange(0, examples, number), examples)
    pools = np.arange(examples) // (POOL * number)
    grouped = shuffled[np.lexsort((*(-side[shuffled] for side in reversed(sides)), pools))]
    tokens = int(sum(side.sum() for side in sides))
    found: dict[str, Any] = {"tokens": tokens, "sequences": number}
    cells = {
        "random": rectangles(sides, shuffled, bounds),
        "grouped": rectangles(sides, grouped, bounds),
        "ours": rectangles(loader.examples.sides, plan.order, plan.offsets),
    }
    for name, n in cells.items():
        found[name] = {"cells": n, "share": share(n - tokens, n), "times": n / tokens if tokens else 1.0}
    return found


def rectangles(sides: Sequence[Int64s], order: Int64s, bounds: Int64s) -> int:
    """The places of all batches order[bounds[i] : bounds[i + 1]], each side padded to its longest sequence."""
    rows = np.diff(bounds)
    return int(sum((np.maximum.reduceat(side[order], bounds[:-1]) * rows).sum() for side in sides))


# ------------------------------------------------------------------------------------------------------ repetition


def repeated(splits: Splits) -> dict[str, dict[str, Any]]:
    """How many rows read the same as one of train (`in_train`), or as an earlier one of their own split (`within`).

    What reads the same has the same tokens; so with a tokenizer that loses some of the text, texts may differ.
    """
    found: dict[str, dict[str, Any]] = {}
    train: set[bytes] = set()
    for split in sorted(splits, key=lambda split: split != "train"):
        keys = list(inputs(splits[split]))
        distinct = set(keys)
        here = len(keys) - len(distinct)
        found[split] = {"within": here, "within_share": share(here, len(keys))}
        if split == "train":
            train = distinct
        else:
            there = sum(key in train for key in keys)
            found[split] |= {"in_train": there, "in_train_share": share(there, len(keys))}
    return found


def inputs(table: datasets.Dataset) -> Iterator[bytes]:
    """A digest of what is read of each row: the tokens, and how many each word has, which add up to all of them."""
    columns = [name for name in ("tokens", "pieces") if name in table.column_names]
    for parts in zip(*(rows(table, column) for column in columns), strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            digest.update(part.tobytes())
        yield digest.digest()


# --------------------------------------------------------------------------------------------- columns of lists


def chunks(table: datasets.Dataset, column: str) -> Iterator[tuple[npt.NDArray[Any], Int64s]]:
    """Some rows at a time: their values, joined, and how many each row has."""
    for chunk in table.data.column(column).chunks:
        yield chunk.flatten().to_numpy(), np.diff(chunk.offsets.to_numpy()).astype(np.int64)


def rows(table: datasets.Dataset, column: str) -> Iterator[npt.NDArray[Any]]:
    """The values of one row after the other."""
    for values, row_sizes in chunks(table, column):
        yield from np.split(values, np.cumsum(row_sizes)[:-1]) if len(row_sizes) else ()


def sizes(table: datasets.Dataset, column: str) -> Int64s:
    """[R]: how many values each row has."""
    return np.concatenate([np.zeros(0, np.int64), *(found for _, found in chunks(table, column))])


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def ratio(a: int, b: int) -> float | None:
    return a / b if b else None
