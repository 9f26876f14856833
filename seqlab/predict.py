"""python -m seqlab.predict run=PATH input=FILE|- [output=FILE]: JSON lines in, JSON lines out, order kept.

A language model continues the "text" of every line: {"text": "Return the"} gives {"text": ..., "continuation": ...}.
Whatever else a line holds is passed through.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from seqlab.command_line import Command, run_verb
from seqlab.errors import InputError


def job(command: Command) -> None:
    """Reads everything, then writes everything: bad input leaves no half output."""
    from seqlab import bundle
    from seqlab.durable import replace_file
    from seqlab.experiment import choose_device
    from seqlab.serving.predictor import Predictor

    asked = command.config
    items = read_items(asked["input"])
    loaded = bundle.load(asked["run"], command.trust | ({asked["trust"]} if asked["trust"] else set()))
    loaded.task.model.to(choose_device(asked["device"]))
    settings = {name: asked[name] for name in ("max_tokens", "temperature", "seed")}
    try:
        written = Predictor(loaded).complete([item["text"] for item in items], **settings)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    lines = [
        json.dumps({**item, "continuation": text}, ensure_ascii=False) + "\n"
        for item, text in zip(items, written, strict=True)
    ]
    if asked["output"] is None:
        sys.stdout.write("".join(lines))
    else:
        replace_file(Path(asked["output"]), "".join(lines).encode())


def read_items(source: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, or of standard input for "-"; blank lines are skipped.

    Raises:
        InputError: the file cannot be read, or a line is no object with a "text"; names file and line.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"input={source} cannot be read: {error.strerror or error}") from error
    items = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f'input={source}, line {number}: not JSON ({error}); expected {{"text": "..."}}'
            ) from error
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            raise InputError(
                f'input={source}, line {number}: expected an object with a "text", such as {{"text": "..."}}'
            )
        items.append(item)
    if not items:
        raise InputError(f'input={source} holds no line; expected one {{"text": "..."}} per line')
    return items


def main() -> None:
    """The verb, as `python -m seqlab.predict` runs it."""
    run_verb(job, "predict")


if __name__ == "__main__":
    main()
