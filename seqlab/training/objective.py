"""The gradient of a global batch, for any split into micro-batches.

The objective is the sum over terms of weight * sum / count. The counts belong to the *global* batch and are known
before any forward pass, so that each micro-batch adds exactly its share: no mean of means.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from seqlab.data.batch import Batch
from seqlab.errors import InputError, NonFiniteError
from seqlab.tasks.task import Task
from seqlab.training.averages import Averages


def pieces(batch: Batch, micro_tokens: int | None) -> list[Batch]:
    """`batch.split`, with advice.

    Raises:
        InputError: one sequence alone is longer than `micro_tokens`.
    """
    try:
        return batch.split(micro_tokens)
    except ValueError as error:
        raise InputError(f"{error}; raise trainer.micro_tokens, or lower the longest length of the data") from error


def backward(task: Task, batch: Batch, micro_tokens: int | None, averages: Averages) -> Tensor:
    """Adds the gradient of the batch's objective to every `.grad`, and the terms to the averages.

    Returns:
        The objective, a scalar without history, on the batch's device.

    Raises:
        ValueError: the task's steps counted something else than its `counts` had announced.
    """
    counts = task.counts(batch)
    counted: Counter[str] = Counter()
    objective = torch.zeros((), device=batch.tokens.device)
    for micro in pieces(batch, micro_tokens):
        output = task.step(micro)
        terms = [(term, counts[name]) for name, term in output.terms.items() if term.count and term.weight]
        if terms:
            loss = torch.stack([term.weight * term.sum / count for term, count in terms]).sum()
            loss.backward()
            objective = objective + loss.detach()
        averages.add_terms(output)
        counted.update({name: term.count for name, term in output.terms.items()})
    if counted != Counter(counts):
        raise ValueError(f"{type(task).__name__}.counts announced {counts}, its steps counted {dict(counted)}")
    return objective


def clip_gradient(model: nn.Module, longest: float | None, loss: Tensor, step: int, batch: Batch) -> Tensor:
    """Shortens the gradient (2-norm over all parameters) to `longest`; None leaves it. Returns its length before.

    Waits for the device, once: nothing may change where the loss or the gradient is not a finite number.

    Args:
        loss: the objective that the gradient is of.
        step: optimizer steps taken so far.
        batch: the global batch it was taken on.

    Raises:
        NonFiniteError: names the step, the first parameter and the examples.
    """
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    norm = get_total_norm([gradient for _, gradient in gradients])
    if not torch.isfinite(loss + norm):
        bad = next((name for name, gradient in gradients if not gradient.isfinite().all()), "none")
        ids = ", ".join(map(str, batch.ids.tolist()[:50])) + (", ..." if len(batch) > 50 else "")
        raise NonFiniteError(
            f"step {step + 1}: the loss is {float(loss)}, the norm of the gradient {float(norm)}, the first parameter "
            f"with a gradient that is not finite: {bad}; examples {ids}. The weights are left as they were after step "
            f"{step}. Lower optimizer.lr or trainer.clip, or look at these examples"
        )
    if longest is not None:
        clip_grads_with_norm_(model.parameters(), longest, norm)
    return norm
