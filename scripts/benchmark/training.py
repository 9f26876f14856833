"""Whole training runs to the same validation loss: seqlab's trainer against Hugging Face's.

A small causal Transformer learns the docstrings of the standard library: same weights to begin with, same optimizer,
rate and dropout, same tokens per step on average, and seqlab judges all of them. Each side is a process of its own, and
they take turns: so many steps each, then the next. Only steps and the wait for their data count, not judging.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmark.measure import Options, Row, Skipped
from benchmark.sides import huggingface, language_models, share
from seqlab.data.corpus import prepare
from seqlab.data.examples import Examples
from seqlab.data.loader import PlannedLoader
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.sources.pydocs import PyDocs
from seqlab.experiment import cache_folder
from seqlab.models.decoding import Decoding
from seqlab.tasks.language_modeling import LanguageModeling
from seqlab.text.tokenizer_training import BytePairs
from seqlab.training.evaluation import evaluate
from seqlab.training.optimizers import adamw
from seqlab.training.schedules import Constant
from seqlab.training.throughput import Throughput
from seqlab.training.trainer import Trainer

WIDTH, HEADS, MAX_LENGTH, VOCABULARY, DROPOUT = 128, 2, 512, 1024, 0.1
TOKENS, RATE, SCHEDULE = 2048, 2e-3, Constant(warmup_steps=50)

SAMPLING = {"Hugging Face Trainer": "random", "Hugging Face Trainer, length-grouped": "group_by_length"}
TARGETS = dict(zip(SAMPLING, (2.5, 1.3), strict=True))

Point = tuple[float, float, float]  # seconds of steps so far, validation loss, share of them spent waiting for data


class Turns:
    """Tells where a run stands, and waits until it may go on."""

    def __init__(self, pipe: Connection, options: Options) -> None:
        self.pipe = pipe
        self.every = options.size(20, 2)
        self.steps = options.size(200, 4)
        corpus = prepare(PyDocs(), LanguageModelingPreprocessor(), BytePairs(vocab_size=VOCABULARY), cache_folder())
        self.examples = Examples(corpus.splits["train"], MAX_LENGTH, "split")
        judged = Examples(corpus.splits["validation"], MAX_LENGTH, "split")
        self.judged = PlannedLoader(judged, TOKENS, seed=0, first_batches=options.size(10, 1))
        self.ours, self.theirs, self.pairs = language_models(
            len(corpus.vocabularies.tokenizer), WIDTH, HEADS, MAX_LENGTH + 1, DROPOUT
        )
        self.task = LanguageModeling(self.ours, lossless=False, end=0, decoding=Decoding())
        self.stand(0.0, float("inf"))

    def stand(self, seconds: float, loss: float, waiting: float = 0.0) -> None:
        self.pipe.send((seconds, loss, waiting))
        self.pipe.recv()


class _Log:
    """What seqlab's trainer tells, as far as it is wanted here; also in the place of its checkpoints."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.waiting = turns, 0.0

    def train_point(self, state: Any, figures: Mapping[str, float], seconds_left: float | None) -> None:
        self.waiting = figures["data_wait_fraction"]

    def evaluation(self, state: Any, split: str, metrics: Mapping[str, Any]) -> None:
        self.turns.stand(state.step_seconds, metrics["loss"], self.waiting)

    def start(self, *ignored: object) -> None: ...
    def flush(self) -> None: ...
    def save(self, *ignored: object) -> None: ...


def train_seqlab(turns: Turns) -> None:
    log: Any = _Log(turns)
    limits = {"max_steps": turns.steps, "max_epochs": None, "max_tokens": None, "max_minutes": None}
    Trainer(
        turns.task,
        adamw(turns.ours, lr=RATE),
        SCHEDULE,
        PlannedLoader(turns.examples, TOKENS, seed=0),
        turns.judged,
        log,
        log,
        Throughput(torch.device("cpu"), torch.float32, gemm_peak=float("inf")),
        eval_every=turns.every,
        log_every=turns.every,
        **limits,
    ).fit()


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Padded at the end, as `DataCollatorForLanguageModeling` does it; the model shifts the labels."""
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad(ids, padding_value=0),
        "attention_mask": pad([torch.ones_like(row) for row in ids]),
        "labels": pad(ids, padding_value=-100),
    }


def train_huggingface(turns: Turns, sampling: str) -> None:
    import datasets

    peers = huggingface()
    examples = turns.examples
    batch = examples.batch(range(len(examples)))
    pairs = zip(batch.tokens.to_list(), batch.targets.to_list(), strict=True)
    rows = [[*tokens.tolist(), int(targets[-1])] for tokens, targets in pairs if len(tokens)]
    table = datasets.Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})

    class Judge(peers.TrainerCallback):  # type: ignore[misc, name-defined]
        seconds, since = 0.0, time.perf_counter()

        def on_train_begin(self, *ignored: object, **also: object) -> None:
            self.since = time.perf_counter()

        def on_step_end(self, arguments: object, state: Any, control: object, **also: object) -> None:
            if state.global_step % turns.every:
                return
            self.seconds += time.perf_counter() - self.since
            share(turns.pairs, back=True)
            turns.stand(self.seconds, evaluate(turns.task, turns.judged.batches(0))["loss"])
            self.since = time.perf_counter()

    optimizer = adamw(turns.theirs, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULE.factor(step, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        arguments = peers.TrainingArguments(
            folder,
            max_steps=turns.steps,
            per_device_train_batch_size=max(1, round(TOKENS / examples.lengths.mean())),
            train_sampling_strategy=sampling,
            max_grad_norm=1.0,
            use_cpu=True,
            seed=0,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = peers.Trainer(
            turns.theirs,
            arguments,
            data_collator=collate,
            train_dataset=table,
            callbacks=[Judge()],
            optimizers=(optimizer, schedule),
        )
        trainer.train()


def _take_part(pipe: Connection, side: str, options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    turns = Turns(pipe, options)
    try:
        if side == "seqlab":
            train_seqlab(turns)
        else:
            train_huggingface(turns, SAMPLING[side])
    except EOFError:  # nobody asks any more
        return


def curves(options: Options) -> dict[str, list[Point]]:
    """The points of all sides, which took turns."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for side in ("seqlab", *SAMPLING):
            pipes[side], its_end = context.Pipe()
            processes.append(context.Process(target=_take_part, args=(its_end, side, options)))
            processes[-1].start()
            its_end.close()
            pipes[side].recv()  # ready
        points: dict[str, list[Point]] = {side: [(0.0, float("inf"), 0.0)] for side in pipes}
        for _ in range(options.size(200 // 20, 4 // 2)):
            for side, pipe in pipes.items():
                pipe.send("go on")
                points[side].append(pipe.recv())
        return points
    except EOFError as error:
        raise Skipped("a process of the training run died; its message is above") from error
    finally:
        for pipe in pipes.values():
            pipe.close()  # who waits for a turn ends
        for process in processes:
            process.join(10)
            process.kill()


def seconds_to(points: list[Point], loss: float) -> float:
    """Seconds until the validation loss was reached, by a straight line between the points."""
    for (t0, l0, _), (t1, l1, _) in pairwise(points):
        if l1 <= loss:
            return t1 if l0 == float("inf") else t0 + (t1 - t0) * (l0 - loss) / (l0 - l1)
    raise ValueError(f"the loss {loss} was never reached")


def runs(options: Options) -> Iterator[Row]:
    """Time to the best loss of the side whose best is the worst, and how long seqlab waited for data."""
    huggingface()
    points = curves(options)
    loss = max(min(loss for _, loss, _ in side) for side in points.values())
    taken: dict[str, float] = {side: seconds_to(found, loss) for side, found in points.items()}
    what = f"training run to {loss:.3f} nats per token"
    for peer, target in TARGETS.items():
        whole = points[peer][-1][0] / points["seqlab"][-1][0]
        yield Row(
            what,
            peer,
            [taken[peer] / taken["seqlab"]],
            target,
            ours=taken["seqlab"],
            theirs=taken[peer],
            unit="s",
            note=f"all {options.size(200, 4)} steps: {whole:.2f}x",
            samples={side: [second for second, _, _ in points[side][1:]] for side in ("seqlab", peer)}
            | {f"{side}, loss": [loss for _, loss, _ in points[side][1:]] for side in ("seqlab", peer)},
        )
    waits = [waiting for _, _, waiting in points["seqlab"][1:]]
    yield Row(
        "waiting for data, training run", "step time", waits, 0.02, False, ours=100 * statistics.median(waits), unit="%"
    )
