"""Loaders: the base class, and one that reads the batches of a plan, in this process or ahead of time by workers.

Workers are processes of our own rather than torch's DataLoader: each has a pipe to itself, so that the end of a worker,
however it comes about, is the end of its pipe and is seen at once. (DataLoader's workers share one queue. One that is
killed while it writes there leaves half a message, and the reader waits for the rest for ever.)
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import Queue
from threading import Thread

from seqlab.data.batch import Batch
from seqlab.data.examples import Examples, Int64s, Rows
from seqlab.data.plan import Plan
from seqlab.data.windows import Windows
from seqlab.errors import DataError


@dataclass(frozen=True)
class Position:
    """Where reading stands: everything that a loader needs to continue there.

    epoch    the epoch, from 0
    batch    the number of the batch that comes next in it
    batches  how many batches the epoch has; 0 where that is not known yet, or none of them has been read
    notes    a loader's own, which help it to continue quickly; plain numbers
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def epochs(self) -> float:
        """How many epochs have been read: 1.5 in the middle of the second; 1 where it is not known how long that is."""
        return self.epoch + (self.batch / self.batches if self.batches else 0)


class Loader(ABC):
    """Gives the batches of a split, epoch by epoch; the same ones whenever it is asked. A subclass defines `read`.

    Attributes:
        examples: the examples of the split, or, of streamed data, the first of them.
        has_all_examples: whether these are all. By default they are.
        longest: the most tokens of an example.
        longest_side: the most tokens that are read of an example, or written for it.
        first_batches: the loader repeats so many batches, to overfit on purpose. None, the default: it does not.
    """

    examples: Examples | Windows
    has_all_examples: bool = True
    longest: int
    longest_side: int
    first_batches: int | None = None

    @abstractmethod
    def read(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield the batches from a position to the end of its epoch, each with the position that follows it.

        The position that follows the last batch of an epoch is the beginning of the next epoch.

        Raises:
            DataError: reading failed.
        """
        ...

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        for batch, _ in self.read(Position(epoch, start)):
            yield batch

    def count(self, epoch: int) -> int | None:
        """Return the number of batches of an epoch. None, the default: it is not known."""
        return None

    @property
    def planned(self) -> PlannedLoader:
        """A loader of `examples` alone, whose batches are planned: what a report shows, and what tells runs apart."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")


class PlannedLoader(Loader):
    """Gives the batches of a plan of all examples. Nothing but the position has to be stored to continue.

    No random state is read or changed; the plan has its own.

    Args:
        examples: none longer than `tokens`; or windows of a stream, whose batches are what they are.
        tokens, pool, seed: as in `make_plan`; without a seed all epochs are the same.
        workers: processes that read ahead; 0 reads in this one. They start from a clean process, as a fork of one that
            runs threads can hang; so a script of one's own with workers needs `if __name__ == "__main__":`.
        prefetch: how many batches each worker holds ready.
        first_batches: only the first so many batches of epoch 0, in every epoch: to overfit on purpose.
    """

    def __init__(
        self,
        examples: Examples | Windows,
        tokens: int,
        pool: int = 50,
        seed: int | None = None,
        workers: int = 0,
        prefetch: int = 2,
        first_batches: int | None = None,
    ) -> None:
        self.examples, self.tokens, self.pool, self.seed = examples, tokens, pool, seed
        self.workers, self.prefetch, self.first_batches = workers, prefetch, first_batches
        self.longest = int(examples.lengths.max(initial=0))
        self.longest_side = max(int(side.max(initial=0)) for side in examples.sides)
        self._plan_of = lru_cache(maxsize=1)(self._make_plan)  # asked for many times an epoch

    @property
    def planned(self) -> PlannedLoader:
        return self

    def plan(self, epoch: int) -> Plan:
        """Return which examples form which batch of an epoch."""
        always_the_same = self.seed is None or self.first_batches is not None
        return self._plan_of(0 if always_the_same else epoch)

    def _make_plan(self, epoch: int) -> Plan:
        plan = self.examples.plan(self.tokens, self.pool, self.seed, epoch)
        return plan if self.first_batches is None else plan.first(self.first_batches)

    def count(self, epoch: int) -> int:
        return len(self.plan(epoch))

    def read(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield the batches from a position on, each with the position that follows it; nothing before it is read.

        Raises:
            DataError: reading failed, or a worker died.
        """
        plan, epoch = self.plan(start.epoch), start.epoch
        chosen = [plan[i] for i in range(start.batch, len(plan))]
        source = _read_ahead(self.examples, chosen, self.workers, self.prefetch) if self.workers else None
        for number, indices in enumerate(chosen, start.batch):
            try:
                rows = self.examples.read(indices) if source is None else next(source)
            except Exception as error:
                raise DataError(f"reading batch {number} of epoch {epoch} failed: {error}") from error
            is_last = number + 1 == len(plan)
            yield rows.batch(), Position(epoch + 1) if is_last else Position(epoch, number + 1, len(plan))


def _read_ahead(examples: Examples | Windows, batches: list[Int64s], workers: int, prefetch: int) -> Iterator[Rows]:
    """The batches in order; of n workers, worker w reads the batches w, w + n, w + 2n, ..."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])  # what all workers import is imported once
    pipes, processes = [], []
    try:
        for worker in range(workers):
            pipe, its_end = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(examples, batches[worker::workers], prefetch, its_end),
                name=f"seqlab-loader-{worker}",
                daemon=True,
            )
            process.start()
            its_end.close()  # the worker's copy is the only one left: it closes when the worker ends
            pipes.append(pipe)
            processes.append(process)
        for number in range(len(batches)):
            worker = number % workers
            try:
                rows: Rows | Exception = pipes[worker].recv()
            except (EOFError, OSError) as error:
                processes[worker].join(1)
                raise DataError(
                    f"loader worker {worker} (process {processes[worker].pid}) died with exit code "
                    f"{processes[worker].exitcode} (-9: killed, perhaps for want of memory); loader.workers=0 does "
                    "without workers"
                ) from error
            if isinstance(rows, Exception):
                raise rows
            yield rows
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            if process.exitcode is None:  # at the end of a program all are ended before we get here
                process.kill()
                process.join()
            pipe.close()


def _work(examples: Examples | Windows, batches: list[Int64s], prefetch: int, pipe: Connection) -> None:
    """A worker's life: a thread reads, this one sends, `prefetch` batches wait between them."""
    os.setsid()  # a signal to the group, such as Ctrl-C, is for the process that trains, which may want more batches
    ready: Queue[Rows | Exception] = Queue(prefetch)

    def read() -> None:
        try:
            for indices in batches:
                ready.put(examples.read(indices))
        except Exception as error:
            ready.put(DataError(f"{type(error).__name__}: {error}"))

    Thread(target=read, daemon=True).start()
    try:
        for _ in batches:
            pipe.send(ready.get())
    except BrokenPipeError:
        pass  # nobody reads any more
