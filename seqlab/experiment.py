"""Build the parts of a run from its configuration. A part is a plain class that does not know the configuration.

What happens before the first step, and where:

    1  the configuration is composed and checked        cli/command.py, config/
    2  the folder of the run is chosen and locked       cli/runs.py, training/run_folder.py
    3  records are tokenized, or found in the cache     `build_data`, data/corpus.py
    4  a loader per split is made; it plans an epoch    `build_data`, data/loader.py, data/plan.py
       when that is first asked for
    5  the task and its model are built                 `build`, bundle.py
    6  a run that continues must be the same as before  `Experiment.identity`, cli/runs.py
    7  the trainer is handed optimizer, schedule, ...   `build_trainer`
    8  config.yaml and run.json are written; not before  train.py
    9  a run that continues restores its checkpoint     `Trainer.resume`
   10  the loop begins                                  `Trainer.fit`
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seqlab import bundle
from seqlab.config.instantiate import instantiate
from seqlab.config.schema import Batching, Config, Loading, Settings, plainly
from seqlab.data.corpus import Corpus, prepare
from seqlab.data.loader import Loader, PlannedLoader
from seqlab.data.preprocessing.preprocessor import Preprocessor
from seqlab.data.sources.source import SPLITS, Source
from seqlab.data.streaming import Beginning, Streamed
from seqlab.errors import InputError
from seqlab.layers.device import choose_device
from seqlab.layers.kernels import kernels
from seqlab.layers.transformer import compile_blocks
from seqlab.models.decoding import Decoding
from seqlab.tasks.task import Task
from seqlab.text.tokenizer_training import TokenizerTrainer
from seqlab.text.vocabularies import Vocabularies
from seqlab.training.checkpoint import Checkpoints
from seqlab.training.limits import Limits
from seqlab.training.logging.run_log import RunLog
from seqlab.training.precision import DTYPES, in_precision
from seqlab.training.run_folder import RunFolder
from seqlab.training.schedules import Schedule
from seqlab.training.throughput import Throughput, gemm_peak
from seqlab.training.trainer import Trainer

THREADS = torch.get_num_threads()  # of this process as it started; jobs of a sweep share it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """The parts of a run."""

    corpus: Corpus
    preprocessor: Preprocessor
    loaders: dict[str, Loader]
    task: Task
    specification: dict[str, Any]  # of task and form
    device: torch.device
    dtype: torch.dtype  # of products

    @property
    def bundle(self) -> bundle.Bundle:
        train = self.loaders["train"]
        limits = train.examples.max_length, train.examples.over_long, train.longest_side
        return bundle.Bundle(self.task, self.preprocessor, self.corpus.vocabularies, *limits, self.corpus.fields)

    @property
    def kernels(self) -> dict[str, str]:
        """The name of what computes each part of the model."""
        return kernels(self.task.model, self.device, self.dtype)

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same when a run is continued, for run.json."""
        return {
            "source": self.corpus.source,
            "tokenizer": self.corpus.vocabularies.digest,
            "data": self.corpus.fingerprint,
            "plan": self.loaders["train"].planned.plan(0).digest,
            "parameters": sum(parameter.numel() for parameter in self.task.model.parameters()),
        }


def build(config: Config, trust: Collection[str] = ()) -> Experiment:
    """Build the parts of a run but the trainer, in the order in which they need each other.

    Args:
        config: plain dicts, checked by `seqlab.config.schema.check`.
        trust: targets that the user has named, or modules of such.

    Raises:
        InputError: a part refuses its input.
    """
    device = choose_device(config["device"])
    torch.set_num_threads(config["threads"] or THREADS)
    micro_tokens = config["trainer"]["micro_tokens"]
    preprocessor = instantiate(config["form"], "form", base=Preprocessor, trust=trust)
    corpus, loaders = build_data(
        config, preprocessor, instantiate(config["tokenizer"], "tokenizer", base=TokenizerTrainer, trust=trust), trust
    )
    torch.manual_seed(config["seed"])
    try:
        task = bundle.build(config["task"], bundle.build_context(preprocessor, corpus.vocabularies), trust)
    except InputError as error:
        raise InputError(plainly(str(error))) from error
    require_positions(task, loaders)
    require_room(max(loader.longest for loader in loaders.values()), micro_tokens, "trainer.micro_tokens")
    task.model.to(device)
    if config.get("compile", Settings.compile):
        compile_model(task.model, device)
    precision = config.get("precision", Settings.precision)
    task = in_precision(task, precision)
    specification = {"task": config["task"], "form": config["form"]}
    return Experiment(corpus, preprocessor, loaders, task, specification, device, DTYPES[precision])


def build_data(
    config: Config,
    preprocessor: Preprocessor,
    learned: TokenizerTrainer | Vocabularies,
    trust: Collection[str] = (),
    splits: Collection[str] = SPLITS,
) -> tuple[Corpus, dict[str, Loader]]:
    """Prepare the corpus, and make a loader for each of its splits; only that of "train" shuffles."""
    source: Source = instantiate(config["data"], "data", base=Source, trust=trust)
    batch: Batching = instantiate(config["batch"], "batch", target=Batching)
    reading: Loading = instantiate(config["loader"], "loader", target=Loading)
    longest, over_long = batch.max_length or batch.tokens, batch.over_long or preprocessor.policies[0]
    if over_long not in preprocessor.policies:
        raise InputError(
            f"batch.over_long={over_long} is not for examples of this task: choose {' or '.join(preprocessor.policies)}"
        )
    if preprocessor.streams and batch.max_length is not None:
        raise InputError(f"batch.max_length={batch.max_length} does not cut a stream: drop it, and see form.window")
    if batch.streaming:
        if preprocessor.streams or not source.streamable:
            what = "the lanes of a stream" if preprocessor.streams else f"data of {type(source).__name__}"
            raise InputError(f"batch.streaming=true reads records from files, not {what}: drop it")
        corpus = prepare(Beginning(source, batch.learn_from), preprocessor, learned, cache_folder())
    else:
        corpus = prepare(source, preprocessor, learned, cache_folder())
    tokens = preprocessor.tokens_per_batch(batch.tokens)
    loaders: dict[str, Loader] = {}
    for split in splits:
        try:
            examples = preprocessor.make_examples(corpus.splits[split], longest, over_long)
        except InputError as error:
            raise InputError(f"in {split}, {error}") from error
        workers, seed = (reading.workers, config["seed"]) if split == "train" else (0, None)
        if batch.streaming and split == "train":
            how = (batch.tokens, batch.pool, seed, longest, over_long)
            loaders[split] = Streamed(source, preprocessor, corpus.vocabularies, examples, *how)
        else:
            loaders[split] = PlannedLoader(examples, tokens, batch.pool, seed, workers, reading.prefetch)
    if batch.first_batches is not None:  # overfitting on purpose: evaluated on what it is trained on
        train = PlannedLoader(loaders["train"].examples, tokens, batch.pool, config["seed"], 0, 2, batch.first_batches)
        loaders |= {"train": train, "validation": train}
    return corpus, loaders


def build_trainer(
    config: Config, experiment: Experiment, folder: RunFolder, log: RunLog, trust: Collection[str] = ()
) -> Trainer:
    """Hand the trainer its parts. Whenever a new best model is saved, the bundle is written."""
    task, loaders = experiment.task, experiment.loaders
    schedule: Schedule = instantiate(config["schedule"], "schedule", base=Schedule, trust=trust)
    spanned = any(config["trainer"][f"max_{unit}"] for unit in ("steps", "epochs", "tokens"))
    if not spanned and schedule.factor(10**9, 0.0) != schedule.factor(10**9, 1.0):
        logger.warning("the learning rate will not decay: a schedule spans steps, epochs or tokens, not max_minutes")

    def publish() -> None:
        bundle.save(folder.path / "bundle", experiment.specification, experiment.bundle)

    trainer: Trainer = instantiate(
        config["trainer"],
        "trainer",
        target=Trainer,
        task=task,
        optimizer=instantiate(config["optimizer"], "optimizer", trust=trust, model=task.model),
        schedule=schedule,
        train=loaders["train"],
        validation=loaders["validation"],
        checkpoints=instantiate(config["checkpoints"], "checkpoints", target=Checkpoints, folder=folder.checkpoints),
        log=log,
        throughput=Throughput(experiment.device, experiment.dtype, gemm_peak(experiment.device, experiment.dtype)),
        device=experiment.device,
        publish=publish,
    )
    warn_of_warm_up(schedule.warmup_steps, trainer.limits, loaders["train"])
    return trainer


def warn_of_warm_up(warmup_steps: int, limits: Limits, train: Loader) -> None:
    """Warn if more than half of a run would be warm-up: little is learned at the low rates of its steps.

    Half, because a warm-up of a quarter is usual; the advice is a tenth. The steps of a run that epochs or tokens end
    are not known before its data is read, so that `seqlab.config.schema.check` cannot refuse it.
    """
    batches, tokens = train.count(0), int(train.examples.lengths.sum())
    if not batches or train.first_batches is not None:
        return  # streamed data has no known length, and `first_batches` overfits on purpose
    share, limit = limits.nearest(1, 1 / batches, tokens // batches)  # of the run, that one batch is
    if 2 * share * warmup_steps > 1:
        steps = max(1, round(1 / share))
        logger.warning(
            "%s ends training after about %d steps, and the learning rate climbs for schedule.warmup_steps=%d: set "
            "schedule.warmup_steps=%d, or train longer",
            limit, steps, warmup_steps, steps // 10,
        )  # fmt: skip


def require_positions(task: Task, loaders: dict[str, Loader]) -> None:
    """Raise `InputError` if the model does not know the positions of the longest sequence that it reads or writes."""
    longest = max(loader.longest_side for loader in loaders.values())
    require_room(longest, task.max_length, "model.positions.max_length")


def require_room(longest: int, limit: int | None, name: str) -> None:
    """Raise `InputError` if the longest sequence does not fit."""
    if limit is not None and longest > limit:
        raise InputError(
            f"the longest sequence has {longest} tokens, {name}={limit}: raise it, or lower batch.max_length"
        )


def choose_decoding(task: Task, settings: Mapping[str, Any]) -> None:
    """Change how the task writes; a setting of None stays as it was.

    Raises:
        InputError: the task does not write, or a value is out of range.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not given:
        return
    if task.decoding is None:
        raise InputError(f"decoding.{next(iter(given))}: this model does not write; drop it")
    task.decoding = instantiate({**asdict(task.decoding), **given}, "decoding", target=Decoding)


def compile_model(model: torch.nn.Module, device: torch.device) -> None:
    """Compile the Transformer blocks of the model; warn if it has none.

    Raises:
        InputError: torch cannot compile for this device here.
    """
    if not compile_blocks(model):
        logger.warning("compile=true is ignored: only Transformer blocks are compiled, and this model has none")
        return
    try:  # here, and not in the first step
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"compile=true: torch cannot compile for {device} here ({reason}); it wants a C++ compiler for a CPU and "
            "Triton for CUDA; or choose compile=false"
        ) from error


def cache_folder() -> Path:
    """Return where prepared corpora are kept: $SEQLAB_CACHE, or the user's cache folder."""
    return Path(os.environ.get("SEQLAB_CACHE") or Path.home() / ".cache" / "seqlab")
