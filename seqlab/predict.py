"""python -m seqlab.predict run=PATH input=FILE|- [output=FILE]: JSON lines in, JSON lines out, order kept.

A language model continues the "text" of every line: {"text": "Return the"} gives {"text": ..., "continuation": ...}.
Whatever else a line holds is passed through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from seqlab.command_line import Command, run_verb
from seqlab.errors import InputError


@dataclass(frozen=True)
class Asked:
    """The settings of this verb."""

    run: str
    input: str
    output: str | None = None
    trust: str | list[str] | None = None
    device: str = "auto"
    seed: int = 1
    max_tokens: int = 100
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0:
            raise InputError("expected max_tokens of at least 1, and temperature of at least 0")


def job(command: Command) -> None:
    """Reads everything, then writes everything: bad input leaves no half output."""
    from seqlab import bundle
    from seqlab.durable import replace_file, require_place
    from seqlab.experiment import choose_device
    from seqlab.instantiate import read_settings
    from seqlab.models.decoding import Decoding
    from seqlab.serving.json_lines import read_items
    from seqlab.serving.predictor import Predictor

    asked = read_settings(Asked, command.config)
    if asked.output is not None:
        require_place(Path(asked.output))
    items = read_items(asked.input)
    loaded = bundle.load(asked.run, command.trust)
    loaded.task.model.to(choose_device(asked.device))
    texts = [item["text"] for item in items]
    decoding = Decoding(max_tokens=asked.max_tokens, temperature=asked.temperature)
    written = Predictor(loaded).complete(texts, decoding, asked.seed)
    pairs = zip(items, written, strict=True)
    lines = "".join(json.dumps({**item, "continuation": text}, ensure_ascii=False) + "\n" for item, text in pairs)
    if asked.output is None:
        print(lines, end="", flush=True)
    else:
        replace_file(Path(asked.output), lines.encode())


def main() -> None:
    """The verb, as `python -m seqlab.predict` runs it."""
    run_verb(job, "predict")


if __name__ == "__main__":
    main()
