"""python -m seqlab.evaluate run=PATH [split=SPLIT] [data=...]: the metrics of a trained model, as JSON.

Judged is the test split of the run's data; of other data whose test split is not named, all there is. With `split=` it
is that split, which is cut as in training where it is not named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seqlab.cli.command import Command, run_verb


@dataclass(frozen=True)
class Options:
    """The settings of this verb, besides data."""

    run: str
    split: Literal["train", "validation", "test"] | None = None
    output: str | None = None
    trust: str | list[str] | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)


def job(command: Command) -> None:
    """Prints the metrics, and writes them beside what was evaluated."""
    from seqlab import bundle, experiment
    from seqlab.cli import runs
    from seqlab.config.instantiate import read_settings
    from seqlab.layers.device import choose_device
    from seqlab.storage.files import replace_file, require_place
    from seqlab.storage.json import dump_json
    from seqlab.training.evaluation import evaluate
    from seqlab.training.precision import in_precision

    data = command.config.get("data")
    options = read_settings(Options, {key: value for key, value in command.config.items() if key != "data"})
    run = Path(options.run)
    loaded = bundle.load(run, command.trust)
    split = options.split or "test"
    whole = runs.whole(run, data) if data is not None and options.split is None else None
    data, part = whole or data, "all" if whole else split
    evaluated = runs.describe_evaluated(data, split)
    # Another evaluation goes into another file.
    differs = [f"{name}-{value}" for name, value in options.decoding.items() if value is not None]
    parts = ("evaluation", part, "other-data" if data is not None else None, options.precision, *differs)
    output = Path(options.output or run / f"{'-'.join(part for part in parts if part)}.json")
    require_place(output)
    config = runs.config_for_evaluation(run, loaded, data)
    corpus, loaders = experiment.build_data(config, loaded.preprocessor, loaded.vocabularies, command.trust, [split])
    if data is None:
        metadata = {"source": corpus.source}
        runs.require_same(
            runs.read_metadata(run), metadata, run, advice="to evaluate on what is there now, type data=..."
        )
    experiment.require_positions(loaded.task, loaders)
    device = choose_device(options.device)
    loaded.task.model.to(device)
    experiment.choose_decoding(loaded.task, options.decoding)
    precision = options.precision or config.get("precision", "float32")
    task = in_precision(loaded.task, precision)
    metrics = evaluate(task, loaders[split].batches(0), device)
    about = {
        "run": str(run), "split": part, "evaluated": evaluated,
        "data": [word for word in command.overrides if word.startswith("data")], "dtype": precision,
        "decoding_settings": task.decoding_settings, "rows": loaders[split].examples.report,
    }  # fmt: skip
    text = dump_json({**about, **metrics}, indent=2)
    print(text, flush=True)
    replace_file(output, (text + "\n").encode())


def main() -> None:
    """The verb, as `python -m seqlab.evaluate` runs it."""
    run_verb(job, "evaluate")


if __name__ == "__main__":
    main()
