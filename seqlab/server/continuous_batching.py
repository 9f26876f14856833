"""Continuous batching: a prompt joins the batch between two steps, and leaves it when its text is written.

This is the loop of `seqlab/models/decoding.py` (Yu et al. 2022, section 3.2) over a queue that has no end. Each prompt
has its own settings. The text of a prompt is, up to rounding, the text that `generate` writes for it alone. A prompt
does not fail because of others: where a step fails that new prompts join, the running ones repeat it without them, and
the new ones are tried one by one; where the scores of a row are no numbers, its prompt alone fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from seqlab.errors import NonFiniteError
from seqlab.models.beam import BeamSearch
from seqlab.models.decoding import Decodable, Decoding, Running, nothing_read
from seqlab.models.sampling import Continuation, Sampling
from seqlab.ragged import Ragged
from seqlab.server.queue import Budget, Job, Queue, fail, where

Begin = Callable[[Sequence[Any]], tuple[Ragged, Any]]

NO_NUMBERS = "a text's scores are not numbers: look at the weights"  # what the log says of it


@dataclass(frozen=True, eq=False)
class Prompt:
    """The payload of a job for a model that writes.

    request   what is to be continued, for `begin`
    decoding  how
    seed      of what is drawn
    """

    request: Any
    decoding: Decoding
    seed: int = 0


def write(
    queue: Queue,
    model: Decodable,
    begin: Begin,
    end: int,
    device: torch.device,
    budget: Budget,
    joining: int,
    wait_s: float,
    stepped: Callable[[int, float], object] = lambda rows, seconds: None,
) -> None:
    """Answer each `Prompt` in the queue with its hypotheses, until the queue is closed and empty.

    Args:
        queue: whose jobs these are.
        model: in evaluation mode.
        begin: of what some prompts ask, the tokens to continue, and what the model knows before (None: nothing).
        end: the token that ends a text.
        device: the model's.
        budget: of the tokens of prompts that begin together, and of the rows and tokens held of all that run.
        joining: the most tokens of prompts that join where others run, and wait for them; a longer one joins alone.
        wait_s: how long the first may wait for company where nobody runs.
        stepped: told after each step of how many rows run, and the seconds it took.
    """
    batch = ContinuousBatch(model, begin, end, device)
    suspects = deque[Job]()  # who joined a step that failed: each is tried without the others
    while True:
        running = batch.rows.jobs
        jobs = (
            [suspects.popleft()] if suspects else queue.take(left_of(budget, joining, running), wait_s, bool(running))
        )
        if not jobs and not running:
            if queue.closed and not len(queue):
                return
            continue
        started = perf_counter()
        place = batch.step(jobs)
        if place is not None and jobs:
            without = batch.step([]) if running else None
            if without is None and len(jobs) == 1:
                fail({jobs[0]: place})
            else:
                suspects.extend(jobs)
            place = without
        if place is not None:
            batch.stop(place)
        stepped(len(batch.rows), perf_counter() - started)


def left_of(budget: Budget, joining: int, running: Sequence[Job]) -> Budget:
    """Return the part of the budget that running jobs leave. They count with the most rows and tokens they may need."""
    if not running:
        return budget
    rows, held = sum(job.rows for job in running), sum(job.held for job in running)
    return Budget(min(budget.tokens, joining), budget.rows - rows, budget.held - held)


class ContinuousBatch:
    """The jobs that run together, and their state in the model.

    Args:
        model, begin, end, device: see `write`.
    """

    def __init__(self, model: Decodable, begin: Begin, end: int, device: torch.device) -> None:
        self.model, self.begin, self.end, self.device = model, begin, end, device
        self.anew()

    def anew(self) -> None:
        """Begin with no rows, and forget the state of earlier ones."""
        self.rows = JobRows(self.end)
        self.running = Running(self.model, self.rows, self.device)

    def step(self, jobs: Sequence[Job]) -> str | None:
        """Write a token for each running job, and begin these jobs. If that fails, change nothing and return where."""
        prompts = states = None
        lengths: list[int] = []
        try:
            with torch.no_grad():
                if jobs:
                    prompts, states = self.begin([job.payload.request for job in jobs])
                    states = nothing_read(self.model, prompts) if states is None else states
                    lengths = prompts.lengths.tolist()
                scores_BV, state = self.running.scores(prompts, states)
        except Exception as error:
            return where(error)  # and the error is forgotten, with the memory that it holds
        try:
            self.rows.join(jobs, lengths, self.model.max_length)
            self.running.choose(scores_BV, state)
        except Exception as error:  # halfway: a defect of ours
            self.stop(where(error), jobs)
        if not len(self.rows):
            self.anew()
        return None

    def stop(self, place: str, joining: Sequence[Job] = ()) -> None:
        """Fail all jobs."""
        fail(dict.fromkeys([*self.rows.jobs, *joining], place))
        self.anew()


class Single(Continuation):
    """The one continuation that answers a job; it streams its tokens, and leaves when the job is abandoned."""

    def __init__(self, job: Job, limit: int) -> None:
        decoding: Decoding = job.payload.decoding
        seed = job.payload.seed if decoding.temperature > 0 else None
        super().__init__(limit, seed, decoding.temperature, decoding.top_k, decoding.top_p, decoding.length_penalty)
        self.job = job

    def take(self, token: int, log_probability: float, end: int) -> bool:
        goes_on = super().take(token, log_probability, end)
        if not self.finished:
            for on_token in self.job.on_token:
                on_token(token)
        if goes_on and not self.job.abandoned:
            return True
        self.job.answer.set_result([self.hypothesis()])
        return False


class JobRows:
    """The rows of all running jobs: those of one continuation are chosen together, those of each beam by itself."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.single = Sampling[Single](end, fail=lambda rows: fail({row.job: NO_NUMBERS for row in rows}))
        self.parts: list[Sampling[Single] | Beam] = [self.single]
        self.part_B = torch.empty(0, dtype=torch.int64)  # of each row, which part it belongs to

    def __len__(self) -> int:
        return len(self.part_B)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have no answer yet."""
        beams = [part.job for part in self.parts if isinstance(part, Beam)]
        return [row.job for row in self.single.rows] + beams

    def join(self, jobs: Sequence[Job], lengths: Sequence[int], room: int | None) -> None:
        """Append a row for each of these jobs behind the running rows.

        Args:
            jobs: each has a `Prompt`.
            lengths: of the prompts.
            room: how many positions the model knows; None: any.
        """
        joined = []
        for job, length in zip(jobs, lengths, strict=True):
            limit = job.payload.decoding.max_tokens
            limit = limit if room is None else min(limit, room + 1 - length)
            if job.payload.decoding.width > 1:
                joined.append(len(self.parts))
                self.parts.append(Beam(job, self.end, limit))
            else:
                joined.append(0)
                self.single.rows.append(Single(job, limit))
        self.part_B = torch.cat([self.part_B, torch.tensor(joined, dtype=torch.int64)])

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that go on, and the token [B'] that each goes on by."""
        rows, tokens, numbers = [], [], []
        parts: list[Sampling[Single] | Beam] = []
        for number, part in enumerate(self.parts):
            mine = (self.part_B == number).nonzero().flatten()
            if len(mine):
                chosen, tokens_b = part.advance(scores_BV[mine.to(scores_BV.device)])
                rows.append(mine[chosen])
                tokens.append(tokens_b)
                numbers.append(torch.full_like(chosen, len(parts)))
            if len(part) or part is self.single:
                parts.append(part)
        self.parts, self.part_B = parts, torch.cat(numbers)
        return torch.cat(rows), torch.cat(tokens)


class Beam:
    """The hypotheses of one prompt."""

    def __init__(self, job: Job, end: int, limit: int) -> None:
        decoding: Decoding = job.payload.decoding
        self.job = job
        self.search = BeamSearch(end, torch.tensor([limit]), decoding.width, decoding.length_penalty, decoding.n_best)
        self.search.join(torch.tensor([0]))

    def __len__(self) -> int:
        return len(self.search.log_p_B)

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        job = self.job
        try:
            rows, tokens_B = self.search.advance(scores_BV)
        except NonFiniteError:
            fail({job: NO_NUMBERS})
            rows = tokens_B = torch.empty(0, dtype=torch.int64)
        if job.abandoned:
            rows, tokens_B = rows[:0], tokens_B[:0]
        if not len(rows):
            self.search.log_p_B = self.search.log_p_B[:0]
            if not job.answer.done():
                job.answer.set_result(self.search.results()[0])
        return rows, tokens_B
