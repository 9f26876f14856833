"""python -m seqlab.predict run=PATH input=FILE|- [output=FILE]: JSON lines in, JSON lines out, order kept.

What is read of a line, and what is added to it, is the task's: {"text": "Return the"} gets a "continuation" by a
language model, {"text": "A fine film."} a "label" by a classifier, and so does {"text": "Is it far?", "pair": "Two
miles."} by one of pairs; {"words": ["Ann", "ran"]} "tags" by a tagger, and {"source": "walk twice"} a "target" by a
model from sequence to sequence, which begins with a "target_prefix" where one is given. Whatever else a line holds is
passed through; a label that is there already, or whatever the answer takes the place of, is found under "given".

Answers come as the lines are read, of which some thousand are held at a time. A file appears when all is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

from seqlab.cli.command import Command, run_verb


@dataclass(frozen=True)
class Options:
    """The options of this verb."""

    run: str
    input: str
    output: str | None = None
    trust: str | list[str] | None = None
    device: str = "auto"
    seed: int = 0
    top_k: int | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)


def job(command: Command) -> None:
    """Answers as it reads. Bad input leaves no half file behind; what was printed before it stays."""
    from seqlab import bundle
    from seqlab.config.instantiate import read_settings
    from seqlab.experiment import choose_decoding
    from seqlab.inference.json_lines import read_items, require_other
    from seqlab.inference.predictor import Predictor
    from seqlab.layers.device import choose_device
    from seqlab.storage.files import replacing, require_place
    from seqlab.storage.json import dump_json

    options = read_settings(Options, command.config)
    if options.output is not None:
        require_place(Path(options.output))
        require_other(options.input, Path(options.output))
    loaded = bundle.load(options.run, command.trust)
    choose_decoding(loaded.task, options.decoding)
    loaded.task.model.to(choose_device(options.device))
    predictor = Predictor(loaded)
    items, read = tee(read_items(options.input, predictor.record, predictor.example))  # which holds what is unanswered
    answers = predictor.stream(read, seed=options.seed, top_k=options.top_k)
    pairs = zip(answers, items, strict=False)  # that order: where answers end in an error, no item is taken for it
    lines = (dump_json(beside(item, answer), ensure_ascii=False) + "\n" for answer, item in pairs)
    if options.output is None:
        for line in lines:
            print(line, end="", flush=True)
        return
    with replacing(Path(options.output)) as file:
        for line in lines:
            file.write(line.encode())


def beside(item: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """An item with its answer; what the answer takes the place of, such as the right label, is kept as `given`."""
    given = {name: item[name] for name in answer if name in item and item[name] != answer[name]}
    return {**item, **answer, **({"given": given} if given else {})}


def main() -> None:
    """The verb, as `python -m seqlab.predict` runs it."""
    run_verb(job, "predict")


if __name__ == "__main__":
    main()
