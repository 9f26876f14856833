"""python -m seqlab.check [overrides]: is a sequence treated alike alone and in company, in any order, in any split?"""

from __future__ import annotations

from seqlab.cli.command import Command, run_verb

TOLERANCE = 1e-9  # relative, in float64: far above rounding, far below any real dependence on company
SEQUENCES = 12


def job(command: Command) -> None:
    """Prints a table of the largest differences; exit code 8 where one is more than rounding."""
    from rich.console import Console
    from rich.table import Table

    from seqlab import experiment
    from seqlab.config import schema
    from seqlab.errors import CheckFailedError, counted
    from seqlab.training.invariance import differences

    schema.check(command.config, command.trust)
    parts = experiment.build({**command.config, "device": "cpu", "precision": "float32"}, command.trust)
    examples = parts.loaders["train"].examples
    shortest = examples.lengths[: examples.alone].argsort(
        kind="stable"
    )  # a spread of lengths from the shorter half, to be quick
    chosen = shortest[: max(1, len(shortest) // 2) : max(1, len(shortest) // (2 * SEQUENCES))]
    batch = examples.batch(chosen)
    read = f"{counted(len(batch), 'sequence')} of at most {counted(batch.tokens.layout.longest, 'token')}"
    table = Table(title=f"{read}, against one batch")
    for heading in ("computed", "outputs differ by", "gradients differ by", ""):
        table.add_column(heading)
    failed = []
    for name, (outputs, gradients) in differences(parts.task, batch).items():
        right = max(outputs, gradients) <= TOLERANCE
        table.add_row(name, f"{outputs:.1e}", f"{gradients:.1e}", "same" if right else "DIFFERENT")
        failed += [] if right else [name]
    Console().print(table)
    if failed:
        raise CheckFailedError(
            f"{' and '.join(failed)}: not what one batch gives. Something in the model lets sequences see each other, "
            "or reads padding; model.cell and your own layers are the first places to look"
        )


def main() -> None:
    """The verb, as `python -m seqlab.check` runs it."""
    run_verb(job, "check")


if __name__ == "__main__":
    main()
