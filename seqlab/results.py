"""What a person reads on the terminal before a run and after it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from seqlab.data.examples import Examples
from seqlab.data.forms.masked_text import MaskedText
from seqlab.data.forms.text import Text
from seqlab.data.streamed import Streamed
from seqlab.errors import counted
from seqlab.experiment import Experiment
from seqlab.models.decoding import Decoding

SAMPLES = 5
MOST = 3  # values of a mapping, such as the probabilities of classes


def describe(parts: Experiment) -> str:
    """What is about to be trained on what, in three lines."""
    splits = {split: loader.examples.report for split, loader in parts.loaders.items()}
    streamed = isinstance(parts.loaders["train"], Streamed)
    rows = ", ".join(
        f"{split} {counted(report['rows'], 'row')} of {counted(report['tokens'], 'token')}"
        f"{' and whatever comes after them' if streamed and split == 'train' else ''}"
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
    form, vocabularies, split = parts.form, parts.corpus.vocabularies, parts.corpus.splits["validation"]
    begun = isinstance(form, Text) and not isinstance(form, MaskedText)
    parts.task.model.eval()  # what answers drops nothing
    examples = Examples(split, 7, "truncate") if begun else parts.loaders["validation"].examples
    shown = []
    for i in list(range(0, len(examples), max(1, len(examples) // SAMPLES)))[:SAMPLES]:
        batch = examples.batch([i])
        (answer,) = parts.task.answer(batch.to(parts.device), Decoding(60, temperature=1.0) if begun else None)
        read, truth = form.shown(batch, vocabularies)
        told = ", ".join(f"{name}: {readable(value)}" for name, value in form.told(answer, {}, vocabularies).items())
        shown.append(f"[{read}]\n{told}" if begun else f"[{read}]\n{told}\ntruth: {truth}")
    return "\n\n".join(shown)


def readable(value: Any) -> str:
    """A part of an answer, for people: numbers to three digits, of many names the first, which are the likeliest."""
    if isinstance(value, Mapping):
        told = [f"{name} {readable(one)}" for name, one in islice(value.items(), MOST)]
        return ", ".join([*told, "..."] if len(value) > MOST else told)
    if isinstance(value, list):
        nested = any(isinstance(one, Mapping | list) for one in value)
        return ("; " if nested else " ").join(map(readable, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show(summary: dict[str, Any], samples: str, example: str, path: Path) -> None:
    """The final table, the samples, and how to look at the run."""
    done = f"{counted(summary['steps'], 'step')}, {summary['tokens']:,} tokens, {summary['wall_s']:.0f} s"
    table = Table(title=f"{done}, ended by {summary['ended_by']}")
    table.add_column("")
    for split in ("validation", "test"):
        table.add_column(split, justify="right")
    for name in (name for name in summary["test"] if name != "by_length"):
        table.add_row(name, *(f"{summary[key][name]:.4f}" for key in ("validation_best", "test")))
    console = Console()
    console.print(table)
    print(
        f"best at step {summary['best_step']:,}; {summary['tokens_per_s']:,.0f} real tokens/s, "
        f"{100 * summary['useful_flops_utilization']:.0f} % of the machine's best rate; "
        f"{100 * summary['padding_fraction']:.0f} % padding avoided; peak memory {summary['peak_rss_mb']:,.0f} MB\n\n"
        f"samples (what was read in brackets):\n\n{samples}\n\n"
        f"look at it:   tensorboard --logdir {path}\n"
        f"try it:       echo '{example}' | python -m seqlab.predict run={path} input=-"
    )
