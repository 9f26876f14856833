"""The faster product is the same linear map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.layers.backend import backend
from seqlab.layers.product import Linear, has_onednn, linear, multiply, over_rows


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (70, 5), (3, 4, 5), (0, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_torch_s(shape: tuple[int, ...], dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(5, 7, bias=bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)

    def results(y: Tensor) -> list[Tensor]:
        weights = torch.randn(y.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]

    ours, theirs = results(layer(x)), results(F.linear(x, layer.weight, layer.bias))
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert isinstance(layer, nn.Linear)


def test_only_gradients_that_are_wanted_are_computed() -> None:
    x, weight = torch.randn(4, 3), torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(x, weight).sum(), [weight])
    assert torch.allclose(gradient, x.sum(0).expand(2, 3))


def test_products_for_gradients_take_any_factors() -> None:
    a, b = torch.randn(6, 4), torch.randn(6, 5)
    for one, other in ((a, b), (b, a), (a[:0], b[:0]), (a[::2], b[::2])):
        assert torch.allclose(over_rows(one, other), one.t() @ other, atol=1e-5)
    assert torch.allclose(multiply(a.t(), b), a.t() @ b, atol=1e-5)


def test_the_plain_path_and_autocast_are_torch_s_own() -> None:
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    with backend("plain"):
        assert type(layer(x).grad_fn).__name__ != "_LinearBackward"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    if has_onednn(x):
        assert type(layer(x).grad_fn).__name__ == "ViewBackward0"  # unflattened
        assert type(linear(x, layer.weight).grad_fn.next_functions[0][0]).__name__ == "_LinearBackward"  # type: ignore[union-attr]
