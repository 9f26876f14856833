"""python -m seqlab.export run=PATH out=FOLDER [format=torchscript|pt2|aoti|onnx|all]: a trained model, for production.

What is written is loaded again and held against the trained model, on lengths from nothing to four times the longest of
training. Where it differs it is not kept, and an export that was there before stays.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from seqlab.cli.command import Command, run_verb


@dataclass(frozen=True)
class Options:
    """The options of this verb."""

    run: str
    out: str
    format: str = "torchscript"
    trust: str | list[str] | None = None


def job(command: Command) -> None:
    """Prints, for each format, what was written and how near it is to the trained model."""
    from seqlab import bundle
    from seqlab.config.instantiate import read_settings
    from seqlab.exporting.folder import chosen, export, require_out
    from seqlab.exporting.requirements import require

    options = read_settings(Options, command.config)
    formats, out = chosen(options.format), Path(options.out)
    require_out(out)
    for name in formats:
        require(name)

    def begin(name: str) -> None:
        print(f"{name}: being written, and compared with the trained model", file=sys.stderr, flush=True)

    for name, report in export(bundle.load(options.run, command.trust), formats, out, begin).items():
        if "refused" in report:
            print(f"{name}: {report['refused']}", flush=True)
            continue
        largest = max(found for outputs in report["largest_difference"].values() for found in outputs.values())
        eager = report["seconds"].pop("eager")
        speed = ", ".join(f"{signature} {taken * 1e3:.2f} ms" for signature, taken in report["seconds"].items())
        print(
            f"{name}: {', '.join(str(out / file) for file in report['files'])}, {report['bytes'] / 1e6:.1f} MB; "
            f"at most {largest:.1e} from eager mode; "
            f"a batch of {report['seconds_of']['tokens']} tokens {speed}, eager {eager * 1e3:.2f} ms",
            flush=True,
        )


def main() -> None:
    """The verb, as `python -m seqlab.export` runs it."""
    run_verb(job, "export")


if __name__ == "__main__":
    main()
