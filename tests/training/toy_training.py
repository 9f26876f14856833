"""The smallest task, data and run that satisfy the trainer's protocols, and a fingerprint of what a run computes."""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.data.loader import Loader, Position
from seqlab.models.decoding import Decoding
from seqlab.ragged import Layout, Ragged
from seqlab.tasks.task import StepOutput, Task, Term
from seqlab.training.checkpoint import Checkpoints
from seqlab.training.logging.json_lines import read_points
from seqlab.training.logging.run_log import RunLog
from seqlab.training.optimizers import adamw
from seqlab.training.precision import Precision, in_precision
from seqlab.training.schedules import Cosine
from seqlab.training.throughput import Throughput
from seqlab.training.trainer import Trainer

VOCABULARY = 11
# What differs between two runs of the same numbers.
TIMINGS = {"tokens_per_s", "step_ms", "data_wait_fraction", "mem_gb", "seconds", "seconds_left"}
TIMINGS |= {"useful_gflops", "useful_flops_utilization"}
TIMED_STATE = {"seconds", "step_seconds", "possible_flops"}


class ToyModel(nn.Module):
    """Scores of every token from its embedding and the mean of its sequence, with dropout and a tied output."""

    def __init__(self, width: int = 6, dropout: float = 0.3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, VOCABULARY)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Ragged) -> Tensor:
        rows_TD = self.embedding(tokens.values)
        segments_T = tokens.layout.segments
        sums_BD = rows_TD.new_zeros(len(tokens), rows_TD.shape[1]).index_add(0, segments_T, rows_TD)
        means_BD = sums_BD / tokens.lengths.clamp(min=1)[:, None]
        scores: Tensor = self.out(self.dropout(torch.tanh(self.mix(rows_TD + means_BD[segments_T]))))
        return scores


class ToyTask(Task):
    """Cross-entropy per token, a small penalty per sequence, accuracy for the log, and a term that counts nothing."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def counts(self, batch: Batch) -> dict[str, int]:
        tokens = batch.targets.layout.total
        return {"loss": tokens, "penalty": len(batch), "accuracy": tokens, "nothing": 0}

    def step(self, batch: Batch) -> StepOutput:
        scores_TV = self.model(batch.tokens)
        targets_T = batch.targets.values
        counts = self.counts(batch)
        right = (scores_TV.argmax(1) == targets_T).sum()
        return StepOutput(
            {
                "loss": Term(nn.functional.cross_entropy(scores_TV, targets_T, reduction="sum"), counts["loss"], 1.0),
                "penalty": Term(scores_TV.square().mean(1).sum(), counts["penalty"], 0.1),
                "accuracy": Term(right, counts["accuracy"], 0.0),
                "nothing": Term(scores_TV.sum() * math.nan, 0, 1.0),
            }
        )

    def flops(self, batch: Batch) -> float:
        return 1000.0 * batch.tokens.layout.total

    def predict(self, batch: Batch, decoding: Decoding | None = None, seed: int = 0) -> list[Any]:
        return [None] * len(batch)

    def metrics(self, averages: dict[str, float], tallies: Mapping[str, Tensor]) -> dict[str, float]:
        shown = {name: averages[name] for name in ("loss", "penalty", "accuracy")}
        return {**shown, "ppl": math.exp(averages["loss"])}


class ToyBatches(Loader):
    """`examples` random ragged sequences, `size` to a batch, shuffled by seed and epoch.

    `at` is called with "data" and the epoch and number of every batch, before it is handed out; `seen` is the ledger.
    """

    def __init__(
        self, examples: int = 23, size: int = 4, seed: int = 0, at: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 9, (examples,), generator=generator)
        total = int(lengths.sum())
        tokens = torch.randint(VOCABULARY, (total,), generator=generator)
        layout = Layout(lengths)
        ids = torch.arange(examples)
        self.whole = Batch(Ragged(tokens, layout), Ragged((3 * tokens + 1) % VOCABULARY, layout), ids, lengths * 2)
        self.size, self.seed, self.at = size, seed, at
        self.seen: list[tuple[int, int]] = []

    def count(self, epoch: int) -> int:
        return -(-len(self.whole) // self.size)

    def read(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        epoch, count = start.epoch, self.count(start.epoch)
        order = torch.randperm(len(self.whole), generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        for number, indices in enumerate(order.split(self.size)):
            if number >= start.batch and len(indices):
                self.at(epoch, number)
                self.seen += [(epoch, int(i)) for i in indices]
                follows = Position(epoch, number + 1, count) if number + 1 < count else Position(epoch + 1)
                yield self.whole.select(indices), follows


def toy_trainer(
    folder: Path,
    at: Callable[[int, int], None] = lambda *_: None,
    at_validation: Callable[[int, int], None] = lambda *_: None,
    keep: int = 2,
    precision: Precision = "float32",
    **options: Any,
) -> Trainer:
    """A trainer of 3 epochs of 6 steps; logs, evaluates and saves every 4, 5 and 3 steps. Seeds the global state."""
    torch.manual_seed(1)
    limits = {"max_steps": None, "max_epochs": None, "max_tokens": None, "max_minutes": None}
    if not limits.keys() & options.keys():
        limits["max_epochs"] = 3
    rhythm = {"log_every": 4, "eval_every": 5, "save_every": 3, "micro_tokens": 9}
    model = options.pop("model", None) or ToyModel()
    return Trainer(
        in_precision(ToyTask(model), precision),
        options.pop("optimizer", None) or adamw(model, lr=0.02),
        Cosine(warmup_steps=3),
        ToyBatches(at=at),
        ToyBatches(examples=9, seed=7, at=at_validation),
        Checkpoints(folder / "checkpoints", keep=keep),
        RunLog(folder, {"model": {"width": 6}}, "model: {width: 6}\n", stream=io.StringIO()),
        Throughput(torch.device("cpu"), torch.float32, gemm_peak=1e15),
        **{**limits, **rhythm, **options},
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without timings."""
    points = read_points(folder / "metrics.jsonl")
    return [{name: value for name, value in point.items() if name not in TIMINGS} for point in points]


def fingerprint(trainer: Trainer, folder: Path) -> str:
    """SHA-256 of all weights, optimizer tensors, random state, position and logged figures."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            value = value.detach().contiguous().numpy().tobytes()
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                add(f"{name}.{key}", value[key])
            return
        digest.update(f"{name}={value!r};".encode())

    add("model", trainer.task.model.state_dict())
    add("optimizer", trainer.optimizer.state_dict()["state"])
    add("random", torch.get_rng_state())
    add("state", {k: v for k, v in trainer.state.to_json().items() if k not in TIMED_STATE})
    add("lines", dict(enumerate(lines(folder))))
    return digest.hexdigest()


def sends(number: int, *places: tuple[int, int]) -> Callable[[int, int], None]:
    """Sends this process a signal when the batch at one of these places (epoch, number) is fetched, once each."""
    left = set(places)

    def at(epoch: int, batch: int) -> None:
        if (epoch, batch) in left:
            left.discard((epoch, batch))
            os.kill(os.getpid(), number)

    return at


def main() -> None:
    """Trains in FOLDER in one forked process after the other, each killed (-9) at the next place, then to the end.

    python toy_training.py FOLDER EPOCH,BATCH[,v] ...        v: while evaluating
    Prints the fingerprint and the ledger of the last process.
    """
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    importlib.import_module("torch.utils.tensorboard")  # once, before forking

    for i, place in enumerate([*sys.argv[2:], "end"]):
        if (child := os.fork()) == 0:
            epoch, batch, *validation = place.split(",") if place != "end" else ("-1", "-1")
            kill = sends(signal.SIGKILL, (int(epoch), int(batch)))
            trainer = toy_trainer(folder, **({"at_validation": kill} if validation else {"at": kill}))
            if i:
                trainer.resume()
            with trainer.log:
                trainer.fit()
            print(fingerprint(trainer, folder))
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = signal.SIGKILL if place != "end" else 0
        assert status == expected, f"{place}: status {status}"


if __name__ == "__main__":
    main()
