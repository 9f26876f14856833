"""What a person reads on the terminal before a run and after it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.table import Table

from seqlab.data.examples import Examples
from seqlab.data.preprocessing.preprocessor import Reference
from seqlab.data.windows import Windows
from seqlab.errors import counted
from seqlab.experiment import Experiment
from seqlab.models.decoding import Decoding

SAMPLES = 5
MOST = 3  # of the classes that are listed with their probabilities
LONGEST = 300  # characters of a text in a sample
WIDTH, WORDS = 60, 12  # characters, and words, of an item to try the model with


def describe(parts: Experiment) -> str:
    """What is about to be trained on what, in three lines."""
    splits = {split: loader.examples.report for split, loader in parts.loaders.items()}
    rows = ", ".join(
        f"{split} {counted(report['rows'], 'row')} of {counted(report['tokens'], 'token')}"
        f"{' and whatever comes after them' if not parts.loaders[split].has_all_examples else ''}"
        for split, report in splits.items()
    )
    cut = sum(report["over_long_rows"] for report in splits.values())
    policy = f"; {cut:,} of them too long (over_long={parts.loaders['train'].examples.over_long})" if cut else ""
    parameters = parts.identity()["parameters"]
    vocabulary = len(parts.corpus.vocabularies.tokenizer)
    kernels = ", ".join(f"{part} by {kernel}" for part, kernel in parts.kernels.items())
    return (
        f"data: {rows}{policy}\nmodel: {parameters:,} parameters, {vocabulary:,} tokens, {parts.device}"
        f"\nkernels: {kernels}"
    )


def sample(parts: Experiment) -> str:
    """What the model says to a few validation examples, unselected: of a text, how it goes on from its beginning."""
    preprocessor, vocabularies, examples = parts.preprocessor, parts.corpus.vocabularies, _examples(parts)
    begun = preprocessor.continues_text
    parts.task.model.eval()  # what answers drops nothing
    step = max(1, len(examples) // SAMPLES)
    places = (i for begin in range(min(step, SAMPLES)) for i in range(begin, len(examples), step))
    samples: dict[str, str] = {}  # by what is read, which may be the same in several places
    for i in places:
        if len(samples) == SAMPLES:
            break
        batch = examples.batch([i])
        item = preprocessor.format_input(batch, vocabularies)
        words = item.get("words")
        read = " | ".join(" ".join(value) if isinstance(value, list) else value for value in item.values())
        if read in samples:
            continue
        (answer,) = parts.task.predict(batch.to(parts.device), Decoding(60, temperature=1.0) if begun else None)
        described = preprocessor.format_prediction(answer, {}, vocabularies)
        lines = [
            f"[{cut(described.get('masked', read))}]",
            f"predicted: {format_value(next(iter(described.values())), words)}",
        ]
        if isinstance(classes := described.get("probabilities"), Mapping):
            likeliest = ", ".join(f"{name} {p:.2f}" for name, p in islice(classes.items(), MOST))
            lines[1] += f" ({likeliest}{', ...' if len(classes) > MOST else ''})"
        if not begun:
            lines.append(f"reference: {format_value(preprocessor.format_reference(batch, vocabularies), words)}")
        samples[read] = "\n".join(lines)
    return "\n\n".join(samples.values())


def example(parts: Experiment) -> str:
    """An item to try the model with, as JSON: the first validation example that will do, cut to be short; if none of
    the first does, because a shell might change it or it is nothing that can be asked, the preprocessor's own."""
    examples = _examples(parts)
    for i in range(min(SAMPLES, len(examples))):
        item = parts.preprocessor.format_input(examples.batch([i]), parts.corpus.vocabularies)
        short = {name: shortened(value) for name, value in item.items()}
        text = "".join("".join(value) for value in short.values())
        plain = text.isprintable() and "\\" not in text  # which `echo` of some shells reads as a sign of its own
        with suppress(ValueError):
            parts.preprocessor.parse_input(short)
            whole = "pair" in short or "pair" not in parts.corpus.fields  # else it was cut away
            if whole and plain and any(character.isalnum() for character in text):
                return json.dumps(short, ensure_ascii=False)
    return parts.preprocessor.sample_input(parts.corpus.fields)


def shortened(value: str | list[str]) -> str | list[str]:
    """The first words, on one line."""
    if isinstance(value, list):
        return value[:WORDS]
    return textwrap.shorten(value, WIDTH, placeholder="") or value[:WIDTH]  # of a text without blanks there are none


def _examples(parts: Experiment) -> Examples | Windows:
    """Return the examples that samples are made of. Of a text that is continued, only the beginning is given."""
    if parts.preprocessor.continues_text:
        return Examples(parts.corpus.splits["validation"], 7, "truncate")
    return parts.loaders["validation"].examples


def format_value(value: Reference, words: list[str] | None = None) -> str:
    """Format a prediction or a target: tags beside their words, names with commas, a number to four digits."""
    if isinstance(value, list):
        return cut(" ".join(map("/".join, zip(words, value, strict=True))) if words else ", ".join(value) or "none")
    return f"{value:.4g}" if isinstance(value, float) else cut(value)


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def show(summary: dict[str, Any], samples: str, example: str, path: Path) -> None:
    """The final table, the samples, and how to look at the run."""
    done = f"{counted(summary['steps'], 'step')}, {summary['tokens']:,} tokens, {summary['wall_s']:.0f} s"
    print(f"\n{done}, ended by {summary['ended_by']}")
    table = Table()
    table.add_column("")
    for split in ("validation", "test"):
        table.add_column(split, justify="right")
    for name in (name for name in summary["test"] if name != "by_length"):
        table.add_row(name, *(f"{summary[key][name]:.4f}" for key in ("validation_best", "test")))
    console = Console()
    console.print(table)
    print(
        f"best at step {summary['best_step']:,}; {summary['tokens_per_s']:,.0f} real tokens/s, "
        f"{100 * summary['useful_flops_utilization']:.0f} % of the machine's best rate of products "
        f"(docs/performance.md); {100 * summary['padding_fraction']:.0f} % padding avoided; "
        f"peak memory {summary['peak_rss_mb']:,.0f} MB\n\n"
        f"samples (what was read in brackets):\n\n{samples}\n\n"
        f"look at it:   tensorboard --logdir {path}\n"
        f"try it:       echo {quote(example)} | python -m seqlab.predict {quote(f'run={path}')} input=-"
    )
