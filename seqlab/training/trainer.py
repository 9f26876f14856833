"""The training loop: fetch, loss, backward, clip, step, log, maybe evaluate, maybe save.

The trainer is handed its parts and owns their order and the step number. What a task is, how a batch is made, where a
log line goes: that knowledge is in the part it calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import torch

from seqlab.data.batch import Batch
from seqlab.data.loader import Loader, Position
from seqlab.errors import DataError, InputError, StoppedError, require_positive
from seqlab.layers.native import heap
from seqlab.tasks.task import Task
from seqlab.training.checkpoint import Checkpoints
from seqlab.training.evaluation import evaluate
from seqlab.training.limits import Limits
from seqlab.training.logging.run_log import RunLog
from seqlab.training.objective import backward, clip_gradient
from seqlab.training.schedules import Schedule
from seqlab.training.signals import StopSignals
from seqlab.training.state import State
from seqlab.training.throughput import Throughput

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a task until a limit is reached.

    Args:
        train, validation: the global batches. Evaluation reads epoch 0 of the second.
        checkpoints, log: where progress is kept and told.
        throughput: clocks the steps, and knows what the machine could do.
        publish: called when the best model so far has been saved, to hand it on.
        micro_tokens: most tokens that go through the model at once; does not change what is computed. None: all.
        clip: longest gradient (2-norm over all parameters); None: any.
        max_steps, max_epochs, max_tokens, max_minutes: the limits, at least one of them.
        eval_every, save_every, log_every: in steps.
        patience: end after so many evaluations in a row that were not the best; None: never.

    Raises:
        InputError: no limit, or a number out of range.
    """

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        train: Loader,
        validation: Loader,
        checkpoints: Checkpoints,
        log: RunLog,
        throughput: Throughput,
        *,
        device: torch.device | str = "cpu",
        publish: Callable[[], object] = lambda: None,
        micro_tokens: int | None = None,
        clip: float | None = 1.0,
        max_steps: int | None,
        max_epochs: int | None,
        max_tokens: int | None,
        max_minutes: float | None,
        eval_every: int = 200,
        save_every: int = 200,
        log_every: int = 20,
        patience: int | None = None,
    ) -> None:
        rhythm = {"eval_every": eval_every, "save_every": save_every, "log_every": log_every, "patience": patience}
        require_positive("trainer", micro_tokens=micro_tokens, clip=clip, **rhythm)
        self.limits = Limits(max_steps, max_epochs, max_tokens, max_minutes)
        self.task, self.optimizer, self.schedule = task, optimizer, schedule
        self.train, self.validation = train, validation
        self.checkpoints, self.log, self.throughput, self.publish = checkpoints, log, throughput, publish
        self.device = torch.device(device)
        self.micro_tokens, self.clip, self.patience = micro_tokens, clip, patience
        self.eval_every, self.save_every, self.log_every = eval_every, save_every, log_every
        self.state = State()
        self.saved: tuple[int, int] | None = None  # the last checkpoint's step, and the step evaluated before it
        self.base_rates = [group["lr"] for group in optimizer.param_groups]

    def resume(self) -> None:
        """Continues from the newest valid checkpoint, or from the start where none had been written yet.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
            InputError: the checkpoint is of another model.
        """
        if checkpoint := self.checkpoints.load_latest():
            self.state = state = checkpoint.restore(self.task.model, self.optimizer, self.task.carried_state)
            self.saved = (state.step, state.evaluated)
            if state.is_best:
                self.publish()  # the process may have ended between saving and this

    def fit(self) -> State:
        """Trains, evaluates and saves until a limit is reached; the state then, which `resume` would find.

        Raises:
            StoppedError: a signal came; everything up to the last step has been saved.
            NonFiniteError: the loss or the gradient is not finite; the weights are those before that step.
            OSError: the final checkpoint could not be written.
        """
        state, task = self.state, self.task
        self.started = time.perf_counter() - state.seconds
        self.log.start(state)
        task.model.train()
        with StopSignals() as self.signals, closing(self._endless()) as batches:
            try:
                self._evaluate_if_due()  # a signal may have cut it short, before the checkpoint we come from
                while self.ended_by is None:
                    batch, follows, waited = self._fetch(batches)
                    began = time.perf_counter()
                    self.optimizer.zero_grad()
                    loss = backward(task, batch, self.micro_tokens, state.terms)
                    norm = clip_gradient(task.model, self.clip, loss, state.step, batch)
                    self._set_rate()
                    self.optimizer.step()
                    state.advance(batch, follows)
                    state.figures.add("grad_norm", norm, 1)
                    self._clock(batch, waited, time.perf_counter() - began)

                    if state.step % self.log_every == 0:
                        self._log()
                    self.signals.check()
                    self._evaluate_if_due()
                    if state.step % self.save_every == 0:
                        self._save()
                self._log()
                self._evaluate()
                self._save(final=True)
                self.signals.check()
            except StoppedError:
                self._save(final=True)
                raise
        return state

    @property
    def progress(self) -> float:
        """From 0 to 1: what the schedule spans."""
        return self.limits.progress(self.state.step, self.state.position.epochs, self.state.tokens)

    @property
    def ended_by(self) -> str | None:
        """The setting that ends training here, such as "trainer.max_epochs=5"; None: it goes on."""
        state = self.state
        used, limit = self.limits.nearest(state.step, state.position.epochs, state.tokens)
        if used >= 1:
            return limit
        if self.limits.minutes_used(state.seconds) >= 1:
            return f"trainer.max_minutes={self.limits.max_minutes}"
        if self.patience is not None and state.stale >= self.patience:
            return f"trainer.patience={self.patience}"
        return None

    def _endless(self) -> Generator[tuple[Batch, Position], None, None]:
        """Yield the batches from the state's position on, epoch after epoch, each with the position that follows it."""
        follows = self.state.position
        while True:
            start = follows
            for batch, follows in self.train.read(start):
                yield batch, follows
            if follows == start:
                raise InputError("the training split has no batch: look at data and, if it drops, batch.over_long")

    def _fetch(self, batches: Iterator[tuple[Batch, Position]]) -> tuple[Batch, Position, float]:
        """Return the next batch, the position that follows it, and the seconds it was waited for."""
        began = time.perf_counter()
        try:
            batch, follows = next(batches)
        except DataError:
            self.signals.check()  # a signal to the whole process group ends the loader's workers first
            raise
        return batch.to(self.device), follows, time.perf_counter() - began

    def _set_rate(self) -> None:
        factor = self.schedule.factor(self.state.step, self.progress)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.state.lr = self.base_rates[0] * factor

    def _clock(self, batch: Batch, waited: float, worked: float) -> None:
        flops = self.task.flops(batch)
        self.state.seconds = time.perf_counter() - self.started
        self.state.worked(flops, waited + worked, self.throughput.gemm_peak)
        self.throughput.add(batch.num_tokens, flops, waited, worked)
        heap.trim()

    def _log(self) -> None:
        """A line with the averages since the last one."""
        state = self.state
        if not state.figures.counts:
            return
        done = min(1.0, max(self.progress, self.limits.minutes_used(state.seconds)))
        figures = {
            **self.task.metrics(state.terms.take(), {}),
            **state.figures.take(),
            "lr": state.lr,
            **self.throughput.take(),
        }
        self.log.train_point(state, figures, seconds_left=state.seconds * (1 / done - 1) if done else None)

    def _evaluate_if_due(self) -> None:
        if self.state.step and self.state.step % self.eval_every == 0:
            self._evaluate()

    def _evaluate(self) -> None:
        """Evaluate the model at this step, once; save it where it is the best so far."""
        state, monitor = self.state, self.task.monitor
        if state.evaluated == state.step:
            return
        batches = self._stoppable(self.validation.batches(0))
        metrics = evaluate(self.task, batches, self.device, self.micro_tokens)
        self.throughput.measure_again()
        improved = state.record_evaluation(metrics, monitor, self.task.higher_is_better(monitor))
        best = {} if state.best is None else {f"best_{monitor}": state.best, "best_step": state.best_step}
        self.log.evaluation(state, "validation", {**metrics, **best})
        if improved:
            self._save()

    def _stoppable(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.signals.check()
            yield batch

    def _save(self, final: bool = False) -> None:
        """A checkpoint of this step, if there is none yet. Failing is a warning, and an error only at the end."""
        state = self.state
        if self.saved == (state.step, state.evaluated):
            return
        state.seconds = time.perf_counter() - self.started
        self.log.flush()
        try:
            self.checkpoints.save(self.task.model, self.optimizer, state, self.task.carried_state)
            if state.is_best:
                self.publish()
            self.saved = (state.step, state.evaluated)
        except OSError as error:
            if final:
                raise
            logger.warning("step %d could not be saved, training goes on: %s", state.step, error)
