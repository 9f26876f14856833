"""python -m seqlab.report [overrides]: what is in the data, and which batches it makes, before anything is trained."""

from __future__ import annotations

from seqlab.cli.command import Command, run_verb


def job(command: Command) -> None:
    """Prints tables; leaves report.json, pictures of the lengths, and both for TensorBoard in a folder."""
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter

    from seqlab import experiment
    from seqlab.cli.corpus_tables import tables
    from seqlab.cli.histograms import histograms
    from seqlab.config import schema
    from seqlab.config.instantiate import instantiate
    from seqlab.data import statistics
    from seqlab.storage.files import replace_file
    from seqlab.storage.json import dump_json
    from seqlab.training.run_folder import RunFolder

    config, trust = command.config, command.trust
    schema.check(config, trust)
    named = command.folder or config["output_dir"]
    name = config["name"] or command.choices["data"]
    unnamed = Path("runs", f"report-{name}", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    # No run begins: the folder stays if anything is written to it.
    with RunFolder.create(named) if named else RunFolder.unique(unnamed) as folder:
        preprocessor, tokenizer = (instantiate(config[part], part, trust=trust) for part in ("form", "tokenizer"))
        corpus, loaders = experiment.build_data(config, preprocessor, tokenizer, trust)
        planned = {split: loader.planned for split, loader in loaders.items()}
        found = statistics.statistics(corpus, planned)
        loader = planned["train"]
        examples = loader.examples
        settled = {"tokens": loader.tokens, "max_length": examples.max_length, "over_long": examples.over_long}
        batching = {**config["batch"], **settled}
        listed = list(tables(found, batching))
        console = Console()
        console = console if console.is_terminal else Console(width=100)
        for table in listed:
            console.print(table.rich(), "")
        with SummaryWriter(str(folder.path)) as writer:
            for name, splits in statistics.lengths(corpus.splits).items():
                picture = histograms(splits, "words" if name == "words" else f"tokens {name}")
                picture.save(folder.path / f"lengths-{name}.png")
                writer.add_image(f"lengths/{name}", np.asarray(picture), 0, dataformats="HWC")
                for split, lengths in splits.items():
                    writer.add_histogram(f"lengths_{name}/{split}", lengths, 0)
            for table in listed:
                writer.add_text(f"report/{table.title}", table.markdown(), 0)
        report = {"batch": batching, **found}
        replace_file(folder.path / "report.json", (dump_json(report, indent=2, ensure_ascii=False) + "\n").encode())
        print(f"figures and pictures: {folder.path}\nlook at them:         tensorboard --logdir {folder.path}")


def main() -> None:
    """The verb, as `python -m seqlab.report` runs it."""
    run_verb(job, "report")


if __name__ == "__main__":
    main()
