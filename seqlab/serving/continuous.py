"""Continuous batching: whoever wants text written joins between two steps, and leaves when it is written.

This is the loop of `seqlab/models/decoding.py` (Yu et al. 2022, section 3.2) over a queue that has no end. Here each
prompt also brings its own settings. What is written for a prompt is, up to rounding, what `generate` writes for it
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from seqlab.models.beam import BeamSearch
from seqlab.models.decoding import Chooser, Decodable, Decoding, Running, nothing_read
from seqlab.models.hypothesis import Hypothesis, normalised, require_probable
from seqlab.models.sampling import sample
from seqlab.ragged import Ragged
from seqlab.serving.batcher import Job, Queue, fail

Begin = Callable[[Sequence[Any]], tuple[Ragged, Any]]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a job asks.

    asked     what is to be continued, for `begin`
    decoding  how
    seed      of what is drawn
    """

    asked: Any
    decoding: Decoding
    seed: int = 0


def write(
    queue: Queue, model: Decodable, begin: Begin, end: int, device: torch.device, tokens: int, rows: int, wait_s: float
) -> None:
    """Answers each `Prompt` in the queue with its hypotheses, until the queue is closed and empty.

    Args:
        queue: whose jobs these are.
        model: in evaluation mode.
        begin: of what some prompts ask, the tokens to continue, and what the model knows before (None: nothing).
        end: the token that ends a text.
        device: the model's.
        tokens: the most tokens of prompts that join in one step.
        rows: the most hypotheses that run side by side.
        wait_s: how long the first may wait for company where nobody runs.
    """
    writers = Writers(end)
    running = Running(model, writers, device)
    while True:
        jobs = queue.take(tokens, rows - len(writers), wait_s, block=not len(writers))
        if not jobs and not len(writers):
            if queue.closed and not len(queue):
                return
            continue
        try:
            with torch.no_grad():
                if jobs:
                    prompts, states = begin([job.asked.asked for job in jobs])
                    states = nothing_read(model, prompts) if states is None else states
                    writers.join(jobs, prompts.lengths.tolist(), model.max_length)
                    running.step(prompts, states)
                else:
                    running.step()
        except Exception as error:
            fail([*writers.jobs, *jobs], error)
            writers = Writers(end)
        if not len(writers):  # nothing is kept of what was written
            running = Running(model, writers, device)


class Part(Chooser, Protocol):
    """For some rows of the batch, who belong together."""

    @property
    def jobs(self) -> list[Job]: ...
    def __len__(self) -> int: ...


class Writers:
    """Everybody who writes: those who take one token at a time together, each beam by itself."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.single = Singles(end)
        self.parts: list[Part] = [self.single]
        self.part_B = torch.empty(0, dtype=torch.int64)  # of each row, which part it belongs to

    def __len__(self) -> int:
        return len(self.part_B)

    @property
    def jobs(self) -> list[Job]:
        """Who is not done."""
        return [job for part in self.parts for job in part.jobs]

    def join(self, jobs: Sequence[Job], lengths: Sequence[int], room: int | None) -> None:
        """These begin, in rows behind those that run, one each.

        Args:
            jobs: each asks a `Prompt`.
            lengths: of the prompts.
            room: how many positions the model knows; None: any.
        """
        joined = []
        for job, length in zip(jobs, lengths, strict=True):
            limit = job.asked.decoding.max_tokens
            limit = limit if room is None else min(limit, room + 1 - length)
            if job.asked.decoding.width > 1:
                joined.append(len(self.parts))
                self.parts.append(Beam(job, self.end, limit))
            else:
                joined.append(0)
                self.single.join(job, limit)
        self.part_B = torch.cat([self.part_B, torch.tensor(joined, dtype=torch.int64)])

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that go on, and the token [B'] each goes on by."""
        rows, tokens, numbers = [], [], []
        parts: list[Part] = []
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


@dataclass(eq=False)
class Single:
    """Who takes one token at a time: at most `limit`, drawn by `draws`, and what is written so far."""

    job: Job
    limit: int
    draws: list[float]
    tokens: list[int]
    log_probability: float = 0.0

    @property
    def how(self) -> tuple[float, int | None, float | None]:
        decoding: Decoding = self.job.asked.decoding
        return decoding.temperature, decoding.top_k, decoding.top_p


class Singles:
    """Greedy and sampling, a row each; `Sampling` for those who come and go, with settings of their own."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.rows: list[Single] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def jobs(self) -> list[Job]:
        return [row.job for row in self.rows]

    def join(self, job: Job, limit: int) -> None:
        """One more row, the last."""
        draws: list[float] = []
        if job.asked.decoding.temperature > 0:
            generator = torch.Generator().manual_seed(job.asked.seed)
            draws = torch.rand(limit, dtype=torch.float64, generator=generator).tolist()
        self.rows.append(Single(job, limit, draws, []))

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        norms_B = scores_BV.logsumexp(1)
        require_probable(bool(norms_B.isfinite().all()))
        tokens_B = scores_BV.argmax(1)
        drawing = [i for i, row in enumerate(self.rows) if row.draws]
        for how, group in groupby(sorted(drawing, key=lambda i: repr(self.rows[i].how)), lambda i: self.rows[i].how):
            some = list(group)
            draws = [self.rows[i].draws[len(self.rows[i].tokens)] for i in some]
            at = torch.tensor(some, device=scores_BV.device)
            tokens_B[at] = sample(scores_BV[at], torch.tensor(draws, dtype=torch.float64, device=at.device), *how)
        chosen_B = scores_BV.gather(1, tokens_B.unsqueeze(1)).squeeze(1) - norms_B
        tokens_B = tokens_B.cpu()
        going = []
        for i, (row, token, log_p) in enumerate(zip(self.rows, tokens_B.tolist(), chosen_B.tolist(), strict=True)):
            row.log_probability += log_p
            if token != self.end:
                row.tokens.append(token)
                row.job.on_token(token)
            if row.job.abandoned or token == self.end or len(row.tokens) == row.limit:
                self.done(row, token == self.end)
            else:
                going.append(i)
        self.rows = [self.rows[i] for i in going]
        rows = torch.tensor(going, dtype=torch.int64)
        return rows, tokens_B[rows]

    def done(self, row: Single, finished: bool) -> None:
        """The job has its answer."""
        length = torch.tensor(len(row.tokens) + finished)
        score = normalised(
            torch.tensor(row.log_probability, dtype=torch.float64), length, row.job.asked.decoding.length_penalty
        )
        row.job.answer.set_result([Hypothesis(torch.tensor(row.tokens, dtype=torch.int64), score.item(), finished)])


class Beam:
    """The hypotheses of one prompt."""

    def __init__(self, job: Job, end: int, limit: int) -> None:
        decoding: Decoding = job.asked.decoding
        self.jobs = [job]
        self.search = BeamSearch(end, torch.tensor([limit]), decoding.width, decoding.length_penalty, decoding.n_best)
        self.search.join(torch.tensor([0]))

    def __len__(self) -> int:
        return len(self.search.log_p_B)

    def advance(self, scores_BV: Tensor) -> tuple[Tensor, Tensor]:
        (job,) = self.jobs
        rows, tokens_B = self.search.advance(scores_BV)
        if job.abandoned:
            self.search.log_p_B, rows, tokens_B = self.search.log_p_B[:0], rows[:0], tokens_B[:0]
        if not len(rows):
            job.answer.set_result(self.search.results()[0])
        return rows, tokens_B
