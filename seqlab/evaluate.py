"""python -m seqlab.evaluate run=PATH [split=test] [data=...]: the metrics of a trained model, as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from seqlab.command_line import Command, run_verb


def job(command: Command) -> None:
    """Prints the metrics, and writes them beside what was evaluated."""
    from seqlab import bundle, experiment
    from seqlab.data.source import SPLITS
    from seqlab.durable import replace_file
    from seqlab.errors import InputError, did_you_mean
    from seqlab.runs import stored_config
    from seqlab.training.evaluate import evaluate

    asked = {"data": None, **command.config}
    run, split = Path(asked["run"]), asked["split"]
    if split not in SPLITS:
        raise InputError(f"split={split}: expected {', '.join(SPLITS)}{did_you_mean(str(split), SPLITS)}")
    trust = command.trust | ({asked["trust"]} if asked["trust"] else set())
    loaded = bundle.load(run, trust)
    if (run / "config.yaml").exists():
        config = stored_config(run)
    elif asked["data"] is not None:
        config = {"batch": {}, "loader": {}, "seed": 0}
    else:
        raise InputError(
            f"run={run} is a bundle and does not know its data: add data=..., such as data=text data.path=FILE"
        )
    if asked["data"] is not None:
        config["data"] = asked["data"]
    config["batch"] = {**config["batch"], "first_batches": None}
    folder = run / "bundle" if (run / "bundle").is_dir() else run
    config["tokenizer"] = {
        "_target_": "seqlab.text.tokenizer_training.Given",
        "path": str(folder / "tokenizer.json"),
        "end_token": loaded.tokenizer.end_token,
    }
    _, loaders = experiment.build_data(config, trust, [split])
    device = experiment.choose_device(asked["device"])
    loaded.task.model.to(device)
    metrics = evaluate(loaded.task, loaders[split].batches(0), device)
    text = json.dumps({"run": str(run), "split": split, "rows": loaders[split].examples.report, **metrics}, indent=2)
    print(text)
    name = f"evaluation-{split}.json" if asked["data"] is None else f"evaluation-{split}-other-data.json"
    replace_file(Path(asked["output"] or run / name), (text + "\n").encode())


def main() -> None:
    """The verb, as `python -m seqlab.evaluate` runs it."""
    run_verb(job, "evaluate")


if __name__ == "__main__":
    main()
