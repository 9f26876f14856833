"""Optimizers over named groups of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seqlab.errors import InputError

# Devices whose fused kernel torch ships. On 2 CPU threads it is about seven times as fast as the plain loop.
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, embeddings among them; biases and gains, which have one dimension, do not.

    The rule of nanoGPT's `configure_optimizers`. A parameter that is used twice, such as a tied embedding, is listed
    once. Frozen parameters are left out.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, object]] = [
        {"name": "decay", "params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"name": "no_decay", "params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(
    model: nn.Module,
    lr: float = 8e-3,
    betas: Sequence[float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with decay groups; the default betas and decay are GPT-3's.

    Raises:
        InputError: a rate, beta or decay outside its range.
    """
    _require(
        lr,
        weight_decay,
        (
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            f"betas={list(betas)}: expected two numbers, each at least 0 and less than 1",
        ),
        (eps > 0, f"eps={eps}: expected more than 0"),
    )
    groups = decay_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=_fused(model))


def sgd(
    model: nn.Module, lr: float = 1.0, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> torch.optim.SGD:
    """Stochastic gradient descent with decay groups, and momentum as torch has it (Sutskever et al. 2013, section 2).

    Raises:
        InputError: a rate, momentum or decay outside its range.
    """
    _require(
        lr,
        weight_decay,
        (0 <= momentum < 1, f"momentum={momentum}: expected at least 0 and less than 1"),
        (not nesterov or momentum != 0, "nesterov=true: there is none without optimizer.momentum"),
    )
    groups = decay_groups(model, weight_decay)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_fused(model))


def _require(lr: float, weight_decay: float, *claims: tuple[bool, str]) -> None:
    """Raise `InputError` with the messages of all claims that do not hold."""
    every = (
        (lr > 0, f"lr={lr}: expected more than 0"),
        *claims,
        (not weight_decay < 0, f"weight_decay={weight_decay}: expected 0 or more"),
    )
    if wrong := [f"optimizer.{message}" for holds, message in every if not holds]:
        raise InputError("; ".join(wrong))


def _fused(model: nn.Module) -> bool:
    return {parameter.device.type for parameter in model.parameters()} <= FUSED_DEVICES
