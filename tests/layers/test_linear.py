"""The faster product is the same linear map."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.layers import linear as product
from seqlab.layers.backend import backend
from seqlab.layers.linear import Linear, add_over_rows, has_onednn, linear, multiply, over_rows


@pytest.fixture(params=["oneDNN", "torch's own"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either, whatever this processor is."""
    name: str = request.param
    if name == "oneDNN" and product._onednn() is None:
        pytest.skip("this torch has no such operator")
    monkeypatch.setattr(product, "_is_intel", lambda: name != "oneDNN")
    assert has_onednn(torch.ones(1)) == (name == "oneDNN")
    assert product.describe(torch.device("cpu"), torch.float32).startswith(name)
    return name


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
        total = torch.randn(one.shape[1], other.shape[1])
        expected = total + one.t() @ other
        add_over_rows(total, one, other)
        assert torch.allclose(total, expected, atol=1e-5)
    narrow, total = a.bfloat16(), torch.ones(4, 5)  # as the weight's gradient under autocast
    add_over_rows(total, narrow, b.bfloat16())
    assert torch.allclose(total, 1 + a.t() @ b, atol=0.1)
    assert torch.allclose(multiply(a.t(), b), a.t() @ b, atol=1e-5)


@pytest.mark.parametrize("library", ["torch's own"], indirect=True)
@pytest.mark.parametrize("told_by", ["Python", "Linux", "nobody"])
@pytest.mark.parametrize("vendor", ["GenuineIntel", "AuthenticAMD"])
def test_the_processor_chooses(
    library: str, told_by: str, vendor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(product, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: f"Family 6, {vendor}" if told_by == "Python" else "")
    if told_by == "Linux":
        product.CPU_INFO.write_text(f"processor: 0\nvendor_id: {vendor}\n")
    intel = vendor == "GenuineIntel" and told_by != "nobody" and torch.backends.mkl.is_available()
    assert product._is_intel.__wrapped__() == intel


def test_the_plain_path_and_autocast_are_torch_s_own() -> None:
    layer, x = Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    with backend("plain"):
        assert type(layer(x).grad_fn).__name__ != "_LinearBackward"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    if has_onednn(x):
        assert type(layer(x).grad_fn).__name__ == "ViewBackward0"  # unflattened
        assert type(linear(x, layer.weight).grad_fn.next_functions[0][0]).__name__ == "_LinearBackward"  # type: ignore[union-attr]


def test_caches_of_products_are_small_before_the_first_product() -> None:
    code = "import os, seqlab.layers.linear; print(*(os.environ[f'{name}_CAPACITY'] for name in os.sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "ONEDNN_PRIMITIVE_CACHE", "LRU_CACHE"],
        env={**os.environ, "LRU_CACHE_CAPACITY": "7"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "128 7\n"
