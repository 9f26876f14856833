"""python scripts/benchmark.py [--only 'LSTM 256'] [--quick]: seqlab against torch's own modules and Hugging Face.

Sides with the same weights are first held to compute the same thing. Then they take turns (A B A B ...); medians are
reported, and only real tokens count. docs/performance.md explains the table. Peers: pip install '.[bench]'.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # weights are random: nothing to download

import torch
from rich.console import Console

from benchmark import report, rows
from benchmark.measure import Disagreement, Options, Row, Skipped

REPOSITORY = Path(__file__).resolve().parents[1]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", metavar="PATTERN", default="", help="rows whose name contains it (a regular expression)"
    )
    parser.add_argument("--rounds", type=int, help="turns of each side (7); fewer where a row would take over 8 s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: does everything run? The figures mean nothing"
    )
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "../shared/data", help="sst, ud_english_ewt, wikitext2"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder of benchmark.json and .png")
    parser.add_argument(
        "--markdown", type=Path, help="a file to write the table into, between its marks if it has them"
    )
    return parser.parse_args(words)


def main() -> None:
    given = options_of()
    rounds = given.rounds or (1 if given.quick else 7)
    options = Options(rounds=rounds, threads=given.threads, quick=given.quick, data=given.data)
    torch.set_num_threads(options.threads)
    console, began = Console(width=None if sys.stdout.isatty() else 200), time.perf_counter()
    groups = {**rows.groups(options), "spread of lengths": None}
    chosen = {name: group for name, group in groups.items() if re.search(given.only, name)}
    if not chosen:
        raise SystemExit(f"--only {given.only!r} matches none of:\n" + "\n".join(groups))
    table: list[Row] = []
    spread = None
    wrong = False
    given.output.mkdir(parents=True, exist_ok=True)
    for name, group in chosen.items():
        try:
            if group is None:
                spread = report.measure_spread(options)
                report.plot(given.output / "benchmark.png", spread)
            else:
                table += group()
        except Skipped as reason:
            table.append(Row(name, "", note=f"skipped: {reason}"))
        except Disagreement as difference:
            wrong = True
            table.append(Row(name, "", note=f"THE SIDES DISAGREE: {difference}"))
        console.print(f"{time.perf_counter() - began:4.0f} s  {name}", style="dim", highlight=False)
    about = {**report.machine(options), "seconds": time.perf_counter() - began}
    console.print(report.terminal(table, about))
    report.write_json(given.output / "benchmark.json", table, about, spread)
    if given.markdown:
        report.write_markdown(given.markdown, report.markdown(table, about))
    console.print(f"every sample: {given.output / 'benchmark.json'}")
    sys.exit(8 if wrong else 0)


if __name__ == "__main__":
    main()
