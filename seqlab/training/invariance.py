"""The batch-invariance check: does company change what is computed for a sequence, or what is learned from it?

A model in which it does, through padding, a norm over the batch or a position that is not restarted, trains on noise
that depends on how batches happened to be cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.layers.backend import backend
from seqlab.tasks.task import Task


def differences(task: Task, batch: Batch) -> dict[str, tuple[float, float]]:
    """How far other ways to compute the same batch are from computing it in one piece.

    All in float64 on the CPU and without dropout, with a copy of the model. Each entry is (of the terms, of the
    parameters' gradients), the largest difference relative to the largest value; rounding alone stays below 1e-10.

    Args:
        task: with its model.
        batch: real examples; a few dozen short ones are enough.
    """
    task = copy.deepcopy(task)
    task.model.double().cpu().eval()
    for module in task.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()  # as it acts while training; evaluation would hide what it does
    whole = _terms_and_gradients(task, [batch])
    size = len(batch)
    shuffled = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    budget = max(int(batch.tokens_per_example.max()), batch.num_tokens // 3)
    with backend("plain"):
        plain = _terms_and_gradients(task, [batch])
    others = {
        "one at a time": _terms_and_gradients(task, [batch.select(torch.tensor([i])) for i in range(size)]),
        "in another order": _terms_and_gradients(task, [batch.select(shuffled)]),
        "in micro-batches": _terms_and_gradients(task, batch.split(budget)),
        "by plain operators": plain,
    }
    return {
        name: (_apart(terms, whole[0]), max(_apart(a, b) for a, b in zip(gradients, whole[1], strict=True)))
        for name, (terms, gradients) in others.items()
    }


def _terms_and_gradients(task: Task, batches: Iterable[Batch]) -> tuple[Tensor, list[Tensor]]:
    """The sums of all terms [terms], and the gradient of their weighted sum for every parameter."""
    parameters = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    totals = torch.zeros(0)
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        terms = task.step(batch).terms.values()
        sums = torch.stack([term.sum.double() for term in terms])
        totals = sums.detach() + (totals if totals.numel() else 0)
        objective = torch.stack([term.weight * term.sum for term in terms]).sum()
        parts = torch.autograd.grad(objective, parameters, allow_unused=True, materialize_grads=True)
        gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
    return totals, gradients


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) if b.numel() else 0.0
