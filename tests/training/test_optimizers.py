from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_training import ToyModel

from seqlab.errors import InputError
from seqlab.training.optimizers import adamw, decay_groups, sgd


def names_by_group(model: torch.nn.Module) -> dict[str, list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    groups: list[dict[str, Any]] = decay_groups(model, 0.1)
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


def test_matrices_decay_and_tied_weights_are_listed_once() -> None:
    groups = names_by_group(ToyModel())
    assert groups == {"decay": ["embedding.weight", "mix.weight"], "no_decay": ["mix.bias", "out.bias"]}
    assert [group["weight_decay"] for group in decay_groups(ToyModel(), 0.1)] == [0.1, 0.0]


def test_frozen_parameters_are_left_out() -> None:
    model = ToyModel()
    model.mix.requires_grad_(False)
    model.out.bias.requires_grad_(False)
    assert names_by_group(model) == {"decay": ["embedding.weight"]}


def test_only_decaying_weights_shrink_without_gradient() -> None:
    model = ToyModel()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] * (0.95 if p.dim() >= 2 else 1.0)), name


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        adamw(ToyModel(), lr=0, betas=(0.9, 1.0), eps=-1, weight_decay=-0.1)
    for name in ("lr=0", "betas=[0.9, 1.0]", "eps=-1", "weight_decay=-0.1"):
        assert f"optimizer.{name}" in str(caught.value)


def test_sgd_is_that_of_torch_with_decay_of_matrices_only() -> None:
    ours, by_hand = ToyModel(), ToyModel()
    by_hand.load_state_dict(ours.state_dict())
    optimizer = sgd(ours, lr=0.1, momentum=0.9, weight_decay=0.5)
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    for step in range(3):
        torch.manual_seed(step)
        gradients = [torch.randn_like(p) for p in by_hand.parameters()]
        for p, gradient in zip(ours.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            for p, v, gradient in zip(by_hand.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(gradient + (0.5 * p if p.dim() >= 2 else 0))
                p.sub_(0.1 * v)
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with pytest.raises(InputError) as caught:
        sgd(ours, lr=0, momentum=1.0, weight_decay=-1)
    for name in ("lr=0", "momentum=1.0", "weight_decay=-1"):
        assert f"optimizer.{name}" in str(caught.value)
    with pytest.raises(InputError, match=r"optimizer\.nesterov"):
        sgd(ours, nesterov=True)
