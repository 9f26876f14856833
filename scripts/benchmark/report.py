"""What a run of the benchmark leaves: a table on the terminal and as Markdown, JSON with every sample, a plot."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmark.lengths import lengths_of, padding_of
from benchmark.measure import Options, Row, Skipped, interleaved
from benchmark.sides import recurrent_steps

HEADINGS = (
    "row",
    "against",
    "padding",
    "seqlab",
    "peer",
    "unit",
    "ratio",
    "quartiles",
    "to reach",
    "reached",
    "apart",
    "",
)
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def machine(options: Options) -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    packages = {}
    for name in ("seqlab", "torch", "numpy", "transformers", "accelerate", "matplotlib"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": packages,
        "threads": options.threads,
        "rounds": options.rounds,
        "quick": options.quick,
        "seeds": "0: lengths, plans, weights; 1: inputs and gradients; 2: prompts",
    }


def headline(about: dict[str, Any]) -> str:
    return (
        f"{about['cpu']} ({about['capability']}), {about['threads']} threads, torch {about['versions']['torch']}, "
        f"transformers {about['versions']['transformers']}{', a smoke test: its figures mean nothing' * about['quick']}"
    )


def cells(row: Row) -> list[str]:
    """A row as people read it."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    def ratio(value: float) -> str:
        return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"

    target = "" if row.target is None else f"{'≥' if row.at_least else '≤'} {row.target:g}"
    return [
        row.what,
        row.against,
        "" if row.padding is None else f"{row.padding:.2f}x",
        number(row.ours),
        number(row.theirs),
        "" if row.ours is None else row.unit,
        "" if row.value is None else ratio(row.value),
        "" if row.quartiles is None else " to ".join(map(ratio, row.quartiles)),
        target,
        {True: "yes", False: "no", None: ""}[row.reached],
        "" if row.apart is None else f"{row.apart:.0e}",
        row.note,
    ]


def terminal(rows: Iterable[Row], about: dict[str, Any]) -> Table:
    table = Table(title=headline(about))
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in ("row", "against", "unit", "") else "right")
    for row in rows:
        table.add_row(*cells(row), style={True: "green", False: "red", None: None}[row.reached])
    return table


def markdown(rows: Iterable[Row], about: dict[str, Any]) -> str:
    lines = [headline(about), "", f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)]) + "\n"


def write_markdown(file: Path, text: str) -> None:
    """In place of what stands between the marks in the file, if it has them; else the file is the table."""
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    marks = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
    new = marks.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", old) if marks.search(old) else text
    file.write_text(new, encoding="utf-8")


def write_json(file: Path, rows: Iterable[Row], about: dict[str, Any], spread: dict[str, Any] | None) -> None:
    lines = [{**asdict(row), "value": row.value, "quartiles": row.quartiles, "reached": row.reached} for row in rows]
    file.write_text(json.dumps({"machine": about, "rows": lines, "spread": spread}, indent=1), encoding="utf-8")


def measure_spread(options: Options) -> dict[str, Any]:
    """Tokens per second of an LSTM, and padding, as lengths of the same mean spread; the raw times."""
    found: dict[str, Any] = {"sigma": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], "padding": [], "tokens": [], "seconds": []}
    for sigma in found["sigma"]:
        lengths = lengths_of("random", options.size(64, 8), options.size(64, 8), sigma)
        found["padding"].append(padding_of([lengths]))
        found["tokens"].append(int(lengths.sum()))
        found["seconds"].append(interleaved(recurrent_steps("LSTM", options.size(256, 32), lengths)[0], options))
    return found


def plot(file: Path, spread: dict[str, Any]) -> None:
    """Raises Skipped where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise Skipped("matplotlib is not installed: pip install '.[bench]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), height_ratios=(3, 1))
    for side in spread["seconds"][0]:
        rates = [
            sorted(tokens / t for t in times[side])
            for tokens, times in zip(spread["tokens"], spread["seconds"], strict=True)
        ]
        above.plot(spread["sigma"], [rate[len(rate) // 2] for rate in rates], marker="o", label=side)
        low, high = [[rate[int(q * (len(rate) - 1))] for rate in rates] for q in (0.25, 0.75)]
        above.fill_between(spread["sigma"], low, high, alpha=0.2)
    above.set(ylabel="real tokens per second", ylim=(0, None), title="LSTM 256, train step, 64 sequences of mean 64")
    above.legend()
    below.plot(spread["sigma"], spread["padding"], color="gray", marker="o")
    below.set(
        xlabel="spread of the lengths (standard deviation of their logarithm)", ylabel="padding, x", ylim=(0, None)
    )
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
