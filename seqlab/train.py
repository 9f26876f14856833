"""python -m seqlab.train [overrides]: train a model, and leave everything about it in a run folder."""

from __future__ import annotations

from seqlab.cli.command import Command, run_verb


def job(command: Command) -> None:
    """One run, from its configuration to the final table."""
    import yaml

    from seqlab import experiment  # here, so that --help does not wait for torch
    from seqlab.cli import results, runs
    from seqlab.config import schema
    from seqlab.errors import CheckpointError
    from seqlab.training.evaluation import evaluate
    from seqlab.training.logging.run_log import RunLog

    schema.check(command.config, command.trust)
    opened = runs.open_run(command)
    if opened is None:
        print("finished already", flush=True)
        return
    config, folder = opened
    with folder:
        schema.check(config, command.trust)
        parts = experiment.build(config, command.trust)
        runs.require_same(folder.metadata, parts.identity(), folder.path)
        print(f"run folder: {folder.path}\n{results.describe(parts)}", flush=True)
        text, continues = yaml.safe_dump(config, sort_keys=False), bool(folder.metadata)
        shown = schema.for_people(config)
        shown_text = yaml.safe_dump(shown, sort_keys=False)
        with RunLog(folder.path, shown, shown_text, parts.loaders["train"].examples.lengths.tolist()) as log:
            trainer = experiment.build_trainer(config, parts, folder, log, command.trust)
            folder.begin(text, runs.provenance(command))
            metadata = {**parts.identity(), **trainer.throughput.metadata(), "kernels": parts.kernels}
            runs.warn_of_other_bits(folder.metadata, metadata)
            settings = parts.task.decoding_settings
            folder.record(**metadata, data_facts=parts.corpus.metadata, decoding_settings=settings)
            if continues:
                trainer.resume()
            state = trainer.fit()
            folder.record(**trainer.throughput.metadata())
            summary = {"monitor": parts.task.monitor, "ended_by": trainer.ended_by, **state.summary()}
            if state.best is None:
                folder.write_summary(summary)
                raise CheckpointError(
                    f"{parts.task.monitor}, which decides which checkpoint is best, was not a number in any evaluation "
                    f"on validation data: there is no bundle; {folder.path} has the last checkpoint and all other "
                    "figures. Look at the validation data, or choose one of these figures with task.monitor=..."
                )
            trainer.checkpoints.load_best().restore_model(parts.task.model)
            test = evaluate(parts.task, parts.loaders["test"].batches(0), parts.device, trainer.micro_tokens)
            log.evaluation(state, "test", test)
            summary["test"] = test
            folder.write_summary(summary)
            samples = results.sample(parts)
            log.text("samples", samples, state.step)
    results.show(summary, samples, results.example(parts), folder.path)


def main() -> None:
    """The verb, as `python -m seqlab.train` and `seqlab-train` run it."""
    run_verb(job, "train")


if __name__ == "__main__":
    main()
