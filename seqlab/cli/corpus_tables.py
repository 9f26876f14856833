"""The statistics of a corpus as tables, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqlab.cli.tables import Table
from seqlab.data.statistics import DECODED_ROWS, PERCENTILES, POOL
from seqlab.errors import counted

LABELS = 20  # rows of a table; the rarer ones share one


def tables(found: Mapping[str, Any], batching: Mapping[str, Any]) -> Iterator[Table]:
    """Of what `statistics` returns, and the configuration's section `batch` with nothing left open."""
    yield _rows(found, batching)
    yield _lengths(found["lengths"])
    yield _vocabulary(found["vocabulary"])
    if "words" in found:
        known = [[split, _n(part["words"]), _percent(part["known"])] for split, part in found["words"].items()]
        yield Table("Words with an id of their own", ["", "words", "known"], known)
    if "labels" in found:
        yield _labels(found["labels"])
    if "numbers" in found:
        yield _numbers(found["numbers"])
    if "spans" in found:
        yield _spans(found["spans"])
    yield _batches(found["batches"], batching)
    yield _padding(found["padding"])
    yield _repeated(found["repeated"])


def _rows(found: Mapping[str, Any], batching: Mapping[str, Any]) -> Table:
    names = ("rows", "tokens", "over_long_rows", "over_long_tokens", "examples", "lost_tokens")
    rows = [
        [split, *(_n(part[name]) for name in names), _percent(part["lost_tokens"] / max(part["tokens"], 1))]
        for split, part in found["rows"].items()
    ]
    rejected = ", ".join(f"{_n(count)} {reason}" for reason, count in found["rejected"].items()) or "none"
    headings = ["", "rows", "tokens", "over-long", "their tokens", "examples", "lost tokens", "share"]
    over_long = "none, in a stream"
    if batching["max_length"] is not None:
        over_long = f"of more than {_n(batching['max_length'])} tokens, batch.over_long={batching['over_long']}"
    return Table(
        "Rows and examples", headings, rows, f"over-long: {over_long}\nrows that could not be used: {rejected}"
    )


def _lengths(found: Mapping[str, Any]) -> Table:
    names = ["min", *map(str, PERCENTILES), "max"]
    headings = ["", *(f"{name} %" if name.isdigit() else name for name in names), "mean", "total"]
    rows = [
        [
            split if len(found) == 1 else f"{name}, {split}",
            *(_n(part[column]) for column in names),
            _mean(part["mean"]),
            _n(part["total"]),
        ]
        for name, splits in found.items()
        for split, part in splits.items()
    ]
    return Table("Lengths", headings, rows, f"tokens {'and words ' if 'words' in found else ''}per row")


def _vocabulary(found: Mapping[str, Any]) -> Table:
    headings = ["", "tokens", "types", "used", "unknown", "new", "share", "bytes", "chars", "per word"]
    rows = [
        [
            split if len(found) == 1 else f"{name}, {split}",
            _n(part["tokens"]),
            _n(part["distinct"]),
            _percent(part["used"]),
            _percent(part["unknown"]),
            _n(part["unseen"]),
            _percent(part["unseen_share"]),
            _decimals(part["bytes_per_token"]),
            _decimals(part["characters_per_token"]),
            _decimals(part["tokens_per_word"]),
        ]
        for name, vocabulary in found.items()
        for split, part in vocabulary["splits"].items()
    ]
    of = " and ".join(f"{_n(vocabulary['size'])} tokens ({name})" for name, vocabulary in found.items())
    note = (
        f"{of}. types: distinct tokens. used: their share of the vocabulary. new: types that train has not, and their "
        f"share of the tokens. bytes, chars: of a token; per word: tokens; in up to {_n(DECODED_ROWS)} rows of a split."
    )
    return Table("Vocabulary", headings, rows, note)


def _labels(found: Mapping[str, Any]) -> Table:
    splits = found["splits"]
    names = list(splits["train"]["counts"])
    listed = names[:LABELS] if len(names) > LABELS + 1 else names
    whole = "rows" if found["majority"] is None else "targets"
    wholes = {split: max(part[whole], 1) for split, part in splits.items()}

    def cells(chosen: list[str]) -> list[str]:
        counts = {split: sum(part["counts"][name] for name in chosen) for split, part in splits.items()}
        return [cell for split, n in counts.items() for cell in (_n(n), _percent(n / wholes[split]))]

    rows = [[name, *cells([name])] for name in listed]
    if listed != names:
        rows.append([counted(len(names) - LABELS, "other"), *cells(names[LABELS:])])
    notes = [f"{_n(len(names))} labels"]
    if found["majority"] is not None:
        right = ", ".join(f"{_percent(part['majority'])} in {split}" for split, part in splits.items())
        notes.append(f'always answering "{found["majority"]}" is right: {right}')
    else:
        without = ", ".join(f"{_n(part['none'])} in {split}" for split, part in splits.items())
        several = ", ".join(f"{_n(part['several'])} in {split}" for split, part in splits.items())
        notes += ["share: of rows", f"rows without a label: {without}", f"rows with several: {several}"]
    for split, part in splits.items():
        if part["ignored"]:
            notes.append(f"not predicted in {split}: {_n(part['ignored'])}")
        if missing := part["missing"]:
            more = f" and {len(missing) - LABELS} more" if len(missing) > LABELS else ""
            notes.append(f"missing in {split}: {', '.join(missing[:LABELS])}{more}")
    headings = ["", *(heading for split in splits for heading in (split, "share"))]
    return Table("Labels", headings, rows, "\n".join(notes))


def _numbers(found: Mapping[str, Any]) -> Table:
    names = ["min", *map(str, PERCENTILES), "max", "mean", "rmse_of_mean"]
    headings = ["", *(f"{name} %" if name.isdigit() else name for name in names[:-1]), "error"]
    rows = [[split, *(f"{part[name]:.4g}" for name in names)] for split, part in found.items()]
    return Table("Numbers to predict", headings, rows, "error: root mean square, of always answering the mean of train")


def _spans(found: Mapping[str, Any]) -> Table:
    types = sorted(found["train"], key=lambda name: -found["train"][name])
    rows = [[name or "(no type)", *(_n(part[name]) for part in found.values())] for name in types]
    rows.append(["all", *(_n(sum(part.values())) for part in found.values())])
    return Table("Spans, by type", ["", *found], rows)


def _batches(found: Mapping[str, Any], batching: Mapping[str, Any]) -> Table:
    headings = ["", "batches", "tokens: mean", "min", "max", "filled", "sequences: mean", "min", "max"]
    rows = []
    for split, part in found.items():
        tokens, sequences = (
            [_mean(part[name]["mean"]), _n(part[name]["min"]), _n(part[name]["max"])]
            for name in ("tokens", "sequences")
        )
        rows.append([split, _n(part["batches"]), *tokens, _percent(part["fill"]), *sequences])
    note = f"of up to {_n(batching['tokens'])} tokens, in the first epoch"
    return Table("Batches", headings, rows, note)


def _padding(found: Mapping[str, Any]) -> Table:
    headings = ["", "sequences", "at random", "", f"sorted in pools of {POOL}", "", "ours", ""]
    rows = []
    for split, part in found.items():
        cells = [c for way in ("random", "grouped", "ours") for c in _padded(part[way])]
        rows.append([split, _n(part["sequences"]), *cells])
    note = "what padding each batch to its longest sequence would take: its share, and times the real tokens"
    return Table("Padding", headings, rows, note)


def _padded(way: Mapping[str, Any]) -> tuple[str, str]:
    return _percent(way["share"]), f"x {way['times']:.2f}"


def _repeated(found: Mapping[str, Any]) -> Table:
    def cells(part: Mapping[str, Any], where: str) -> list[str]:
        return [_n(part[where]), _percent(part[f"{where}_share"])] if where in part else ["-", "-"]

    rows = [[split, *cells(part, "in_train"), *cells(part, "within")] for split, part in found.items()]
    headings = ["", "also in train", "share", "earlier in the split", "share"]
    return Table("Repeated inputs", headings, rows)


def _n(value: float) -> str:
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value / 1e6:,.1f} M"


def _mean(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else _n(value)


def _percent(share: float | None) -> str:
    """Never 0.0 % of what is there, nor 100.0 % of what is not all."""
    if share is None:
        return "-"
    percent = f"{100 * share:.1f} %"
    if share > 0 and percent == "0.0 %":
        return "< 0.1 %"
    return "> 99.9 %" if share < 1 and percent == "100.0 %" else percent


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
