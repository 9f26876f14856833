"""Attention itself: every kernel and the plain path compute, pair by pair, what is written in `attend.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqlab.layers.attention import attend as attend_module
from seqlab.layers.attention import compiled, packed, tiles
from seqlab.layers.attention.attend import attend, choose, describe
from seqlab.layers.attention.packed import varlen
from seqlab.layers.backend import backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
OWN = "compiled" if compiled.can_run(CPU, torch.float32, 64) else "flash"
PATTERNS: dict[str, dict[str, Any]] = {
    "both ways": {"causal": False},
    "causal": {"causal": True},
    "causal, window": {"causal": True, "window": 3},
    "causal, window 1": {"causal": True, "window": 1},
    "both ways, window": {"causal": False, "window": 2},
}
PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6)


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that sequences of a few tokens are cut into several tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "BLOCK", 4)
        yield


def one(
    q_LHK: Tensor, k_MGK: Tensor, v_MGK: Tensor, bias_HR: Tensor | None, causal: bool, window: int | None
) -> Tensor:
    """One sequence, pair by pair."""
    rows = [q_LHK[:0]]
    ahead, share = len(k_MGK) - len(q_LHK), q_LHK.shape[1] // k_MGK.shape[1]
    for i, q_HK in enumerate(q_LHK):
        seen = [j for j in range(len(k_MGK)) if j <= i + ahead or not causal]
        if window is not None:
            seen = [j for j in seen if abs(j - i - ahead) < window]
        heads = []
        for h, q_K in enumerate(q_HK):
            weights = k_MGK[seen, h // share] @ q_K / math.sqrt(len(q_K))
            if bias_HR is not None:
                far = bias_HR.shape[1] // 2
                weights = weights + bias_HR[h, [max(-far, min(far, j - i - ahead)) + far for j in seen]]
            heads.append(weights.softmax(0) @ v_MGK[seen, h // share])
        rows.append(torch.stack(heads)[None])
    return torch.cat(rows)


def inputs(
    pairs: list[tuple[int, int]], heads: int = 4, key_heads: int = 2, biased: bool = False, keys: str = "in order"
) -> tuple[list[Tensor], dict[str, Tensor | None], list[tuple[Tensor, Tensor, Tensor]]]:
    """Queries, keys, values and bias; lengths and rows; and the sequences, one by one."""
    torch.manual_seed(0)
    lengths, key_lengths = (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))
    total = int(key_lengths.sum())
    rows = {
        "in order": torch.arange(total),
        "in order, as told": torch.arange(total),
        "with room between": torch.arange(total) + 2 * torch.repeat_interleave(key_lengths),
        "anywhere": torch.randint(max(total, 1), (total,)),  # as many, some in several places
    }[keys]
    q = torch.randn(int(lengths.sum()), heads, 8)
    k, v = torch.randn(2, total if keys != "with room between" else total + 2 * len(pairs), key_heads, 8)
    tensors = [x.double().requires_grad_() for x in (q, k, v)]
    if biased:
        tensors.append(torch.randn(heads, 7).double().requires_grad_())
    q, k, v = tensors[:3]
    spans = rows.split(key_lengths.tolist()) if pairs else []
    alone = [(a, k[s], v[s]) for a, s in zip(q.split(lengths.tolist()), spans, strict=True)] if pairs else []
    given = {"lengths": lengths, "key_lengths": key_lengths, "key_rows": None if keys == "in order" else rows}
    return tensors, given, alone


def with_gradients(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    total = (out * weights).sum() + sum(x.sum() * 0 for x in tensors)
    return [out, *torch.autograd.grad(total, tensors)]


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=1e-11) for x, y in zip(a, b, strict=True))


def fits(name: str, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A window that is not causal wants as many keys as queries."""
    return [(length, length) for length, _ in pairs] if name == "both ways, window" else pairs


@contextmanager
def computing(path: str) -> Iterator[None]:
    """On one of the CPU's paths, where it is to be had."""
    with pytest.MonkeyPatch.context() as patch:
        if path == "tiles":
            patch.setattr(compiled, "can_run", lambda device, dtype, head_width: False)
        elif path == "machine code" and not compiled.can_run(CPU, torch.float64, 8):
            pytest.skip("no C++ compiler here, or vectors too wide")
        with backend("plain" if path == "plain" else "fast"):
            yield


@pytest.mark.parametrize(
    ("path", "biased"), [("machine code", False), ("tiles", False), ("tiles", True), ("plain", False), ("plain", True)]
)
@pytest.mark.parametrize("keys", ["in order", "in order, as told", "with room between", "anywhere"])
@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=8)
@given(pairs=PAIRS)
@example(pairs=[(5, 9), (5, 9), (0, 3), (4, 0), (1, 6), (1, 6), (9, 5)])
@example(pairs=[(70, 70), (9, 200), (200, 9)])
def test_every_path_equals_pair_by_pair(
    name: str, biased: bool, keys: str, path: str, pairs: list[tuple[int, int]]
) -> None:
    tensors, where, alone = inputs(fits(name, pairs), biased=biased, keys=keys)
    pattern = {"window": None, **PATTERNS[name]}
    with computing(path):
        out = attend(*tensors[:3], **where, **pattern, bias_HR=tensors[3] if biased else None)
        found = with_gradients(out, tensors)
    expected = torch.cat([tensors[0][:0], *(one(*part, tensors[3] if biased else None, **pattern) for part in alone)])
    assert close(found, with_gradients(expected, tensors))


@pytest.mark.parametrize("path", ["machine code", "tiles", "plain"])
def test_a_query_over_nothing_gives_zeros_and_no_gradient(path: str) -> None:
    tensors, where, _ = inputs([(2, 0), (3, 1), (2, 0)])
    for causal, empty in ((False, [0, 1, 5, 6]), (True, [0, 1, 2, 3, 5, 6])):
        with computing(path):
            out, *gradients = with_gradients(attend(*tensors[:3], **where, causal=causal), tensors)
        assert out.eq(0).flatten(1).all(1).nonzero().flatten().tolist() == empty
        still = gradients[0].flatten(1).abs().amax(1) < 1e-12
        assert still.nonzero().flatten().tolist() == sorted({*empty, *range(2, 5)})
        assert not any(gradient.isnan().any() for gradient in gradients)


@pytest.mark.parametrize(("path", "biased"), [("machine code", False), ("tiles", False), ("tiles", True)])
@pytest.mark.parametrize("name", PATTERNS)
def test_gradients_are_those_of_finite_differences(name: str, path: str, biased: bool) -> None:
    tensors, where, _ = inputs(fits(name, [(3, 5), (5, 5), (1, 2), (2, 0)]), heads=2, key_heads=1, biased=biased)

    def function(q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> Tensor:
        return attend(q, k, v, **where, **PATTERNS[name], bias_HR=bias[0] if bias else None)

    with computing(path):
        assert torch.autograd.gradcheck(function, tensors)


def test_gradients_with_dropout_are_those_of_finite_differences() -> None:
    tensors, where, _ = inputs([(5, 7), (2, 2)], biased=True)

    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attend(q, k, v, **where, causal=True, bias_HR=bias, dropout=0.4)

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_dropout_drops_probabilities_and_keeps_their_mean(path: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(60, 2, 8), torch.randn(60, 2, 8)
    v = torch.eye(6).repeat(10, 1).unsqueeze(1).expand(60, 2, 6).contiguous()  # the output is then the probabilities
    k, q = k[..., :6], q[..., :6]
    lengths = torch.full((10,), 6)
    exact = attend(q, k, v, lengths, lengths, False)
    with backend(path):  # type: ignore[arg-type]
        draws = torch.stack([attend(q, k, v, lengths, lengths, False, dropout=0.25) for _ in range(400)])
        assert not torch.equal(draws[0], draws[1])
    dropped = draws == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert torch.allclose(draws[~dropped], (exact / 0.75).expand_as(draws)[~dropped], atol=1e-5)
    assert torch.allclose(draws.mean(0), exact, atol=0.1)


def test_a_seed_gives_the_same_dropout_again() -> None:
    tensors, where, _ = inputs([(5, 5), (2, 2)])
    torch.manual_seed(7)
    first = attend(*tensors, **where, causal=True, dropout=0.5)
    torch.manual_seed(7)
    assert torch.equal(first, attend(*tensors, **where, causal=True, dropout=0.5))


@pytest.mark.parametrize("name", PATTERNS)
def test_machine_code_in_float32(name: str) -> None:
    """Heads of 64, lengths below, at and above what a vector, a block of rows and a block of queries hold."""
    if not compiled.can_run(CPU, torch.float32, 64):
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    lengths = torch.tensor([300, 65, 64, 33, 16, 3, 1, 0])
    q, k, v = (torch.randn(int(lengths.sum()), heads, 64).requires_grad_() for heads in (4, 2, 2))
    found = with_gradients(attend(q, k, v, lengths, lengths, **PATTERNS[name]), [q, k, v])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    again = with_gradients(attend(q, k, v, lengths, lengths, **PATTERNS[name]), [q, k, v])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    with backend("plain"):
        expected = with_gradients(attend(*exact, lengths, lengths, **PATTERNS[name]), exact)
    assert all((a - b).abs().max() < 2e-5 for a, b in zip(found, expected, strict=True))


def test_bfloat16_in_machine_code_is_float32_rounded_at_both_ends() -> None:
    if OWN != "compiled":
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    lengths = torch.tensor([40, 3, 0, 17])
    narrow = [torch.randn(60, heads, 32, dtype=torch.bfloat16).requires_grad_() for heads in (4, 2, 2)]
    wide = [x.detach().float().requires_grad_() for x in narrow]
    found = with_gradients(attend(*narrow, lengths, lengths, True), narrow)
    expected = with_gradients(attend(*wide, lengths, lengths, True), wide)
    assert all(a.dtype == torch.bfloat16 for a in found)
    assert all((a - b).abs().max() < 0.02 * b.abs().max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("path", ["machine code", "tiles", "plain"])
def test_a_cache_of_another_precision_is_read_in_that_of_the_queries(path: str) -> None:
    tensors, where, _ = inputs([(2, 5), (1, 3)])
    q, k, v = (x.detach() for x in tensors)
    with computing(path):
        found = attend(q, k.bfloat16(), v.bfloat16(), **where, causal=True)
        assert torch.equal(found, attend(q, k.bfloat16().double(), v.bfloat16().double(), **where, causal=True))


def test_machine_code_is_not_handed_what_does_not_fit() -> None:
    if not compiled.can_run(CPU, torch.float64, 8):
        pytest.skip("no C++ compiler here")
    q, k = torch.randn(4, 2, 8).double(), torch.randn(5, 2, 8).double()
    right = torch.tensor([4]), torch.tensor([5])
    attend(q, k, k, *right, False)
    for lengths, key_lengths in (([3], [5]), ([4], [6]), ([4, 0], [5]), ([4], [2, 3])):
        with pytest.raises(ValueError, match="do not fit"):
            attend(q, k, k, torch.tensor(lengths), torch.tensor(key_lengths), False)
    for other in (k[:4], k[:, :1], k[..., :4].repeat(1, 1, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            attend(q, k, other, *right, False)
    with pytest.raises(ValueError, match="do not fit"):
        attend(q, k, k, right[0].int(), right[1].int(), False)
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3, 5], [-1, 0, 1, 2, 3], [0.0, 1, 2, 3, 3]):
        with pytest.raises(ValueError, match="do not fit"):
            attend(q, k, k, *right, False, key_rows=torch.tensor(rows))


def test_a_window_both_ways_wants_as_many_keys_as_queries() -> None:
    tensors, where, _ = inputs([(2, 3)])
    with pytest.raises(ValueError, match="as many keys as queries"):
        attend(*tensors, **where, causal=False, window=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_explicit_probabilities_are_summed_in_float32(dtype: torch.dtype) -> None:
    tensors, where, _ = inputs([(6, 6), (3, 3)], biased=True)
    low = [x.detach().to(dtype).requires_grad_() for x in tensors]
    exact = with_gradients(attend(*tensors[:3], **where, causal=True, bias_HR=tensors[3]), tensors)
    rounded = with_gradients(attend(*low[:3], **where, causal=True, bias_HR=low[3]), low)
    within = {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    assert all((a - b).abs().max() < within for a, b in zip(exact, rounded, strict=True))


# ------------------------------------------------------------------ kernels of CUDA: chosen by signature, imitated here


def old_varlen(
    query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: Any, max_k: Any, is_causal: bool = False
) -> None:
    """Neither windows nor groups nor sums."""


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize(
    ("device", "dtype", "options", "kernel"),
    [
        (CPU, torch.float32, {}, OWN),
        (CPU, torch.bfloat16, {"window": True, "grouped": True}, OWN),
        (CPU, torch.float32, {"head_width": 6}, "flash"),
        (CPU, torch.float32, {"weighted": True}, "explicit"),
        (CUDA, torch.bfloat16, {}, "varlen"),
        (CUDA, torch.float16, {"window": True, "grouped": True}, "varlen"),
        (CUDA, torch.bfloat16, {"weighted": True}, "explicit"),
        (CUDA, torch.bfloat16, {"head_width": 512}, "efficient"),
        (CUDA, torch.float32, {"grouped": True}, "efficient"),
        (CUDA, torch.float32, {"window": True}, "explicit"),
        (CUDA, torch.float32, {"head_width": 12}, "explicit"),
        (CUDA, torch.float64, {}, "explicit"),
        (torch.device("mps"), torch.float32, {}, "explicit"),
    ],
)
def test_the_kernel_is_chosen_by_what_is_asked(
    device: torch.device, dtype: torch.dtype, options: dict[str, Any], kernel: str
) -> None:
    assert choose(device, dtype, **{"head_width": 64, **options}) == kernel


@pytest.mark.usefixtures("h100")
def test_the_kernel_is_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(CUDA, torch.bfloat16) == "varlen_attn on packed rows"
    assert "flash" in describe(CPU, torch.bfloat16, head_width=6)
    with monkeypatch.context() as old:
        old.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert choose(CUDA, torch.float16, 64) == "efficient"
    with monkeypatch.context() as old:
        old.setattr(varlen, "varlen_attn", old_varlen)
        assert choose(CUDA, torch.bfloat16, 64) == "efficient"
    monkeypatch.setattr(packed, "varlen", None)
    assert choose(CUDA, torch.bfloat16, 64, window=True) == "explicit"


def imitated(
    q: Tensor, k: Tensor, v: Tensor, sums_q: Tensor, sums_k: Tensor, left: int, right: int
) -> tuple[Tensor, Tensor]:
    """What the packed kernels compute, and sums [H, T]; where nothing is read, garbage, as a kernel may leave it."""
    outs, sums = [], []
    for b in range(len(sums_q) - 1):
        queries, keys = (s[s_[b] : s_[b + 1]] for s, s_ in ((q, sums_q), (k, sums_k)))
        values = v[sums_k[b] : sums_k[b + 1]]
        keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (keys, values))
        d = torch.arange(len(keys)) - torch.arange(len(queries)).unsqueeze(1) - (len(keys) - len(queries))
        reads = torch.ones_like(d, dtype=torch.bool)
        reads = reads & (d >= -left) if left >= 0 else reads
        reads = reads & (d <= right) if right >= 0 else reads
        scores = torch.einsum("lhk,mhk->hlm", queries, keys) / math.sqrt(q.shape[2])
        scores = scores.masked_fill(~reads, float("-inf"))
        p = torch.where(reads.any(1, keepdim=True), scores.softmax(2).nan_to_num(), 1e3)
        outs.append(torch.einsum("hlm,mhk->lhk", p, values) + (0 if len(keys) else 1e3))
        sums.append(scores.logsumexp(2))
    return torch.cat(outs), torch.cat(sums, 1)


@pytest.fixture
def packed_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Imitations in place of the kernels of CUDA, and a list of what they were asked for."""
    asked: list[Any] = []

    def gradients(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *where: Any) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            tensors = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(imitated(*tensors, *where)[0], tensors, dout)

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
        return_aux: Any = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        assert return_aux.lse
        assert enable_gqa == (query.shape[1] != key.shape[1])
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
        asked.append(window_size)
        return imitated(query, key, value, cu_seq_q, cu_seq_k, *window_size)

    def flash_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, cu_q: Tensor, cu_k: Tensor,
        max_q: int, max_k: int, dropout: float, causal: bool, state: Tensor, unused: Tensor, *, window_size_left: int,
        window_size_right: int,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        window = (window_size_left, window_size_right)
        assert causal == (window == (-1, 0))
        assert torch.equal(sums, imitated(q, k, v, cu_q, cu_k, *window)[1])
        return gradients(dout, q, k, v, cu_q, cu_k, *window)

    def efficient(
        q: Tensor, k: Tensor, v: Tensor, bias: None, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, drop: float,
        mask: int, compute_sums: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert q.shape[2] == k.shape[2] == v.shape[2]
        asked.append(mask)
        out, sums = imitated(q[0], k[0], v[0], cu_q, cu_k, -1, {0: -1, 2: 0}[mask])
        return out[None], sums if compute_sums else sums[:0], torch.zeros(()), torch.zeros(()), max_q, max_k

    def efficient_backward(
        dout: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: None, out: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int,
        max_k: int, sums: Tensor, dropout: float, seed: Tensor, offset: Tensor, mask: int, bias_requires_grad: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert sums.numel()
        assert out.shape == q.shape
        grads = gradients(dout[0], q[0], k[0], v[0], cu_q, cu_k, -1, {0: -1, 2: 0}[mask])
        return *(grad[None] for grad in grads), None

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(packed, "_flash_backward", flash_backward)
    monkeypatch.setattr(packed, "_efficient", efficient)
    monkeypatch.setattr(packed, "_efficient_backward", efficient_backward)

    def use(kernel: str) -> list[Any]:
        monkeypatch.setattr(attend_module, "choose", lambda *_: kernel)
        return asked

    return use


@pytest.mark.parametrize("keys", ["in order", "in order, as told", "with room between", "anywhere"])
@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize(
    ("kernel", "name", "asks"),
    [
        ("varlen", "both ways", (-1, -1)),
        ("varlen", "causal", (-1, 0)),
        ("varlen", "causal, window", (2, 0)),
        ("varlen", "both ways, window", (1, 1)),
        ("efficient", "both ways", 0),
        ("efficient", "causal", 2),
        ("explicit", "causal, window", None),
    ],
)
def test_what_cuda_takes_computes_the_same(
    packed_kernels: Callable[[str], list[Any]], kernel: str, name: str, asks: Any, key_heads: int, keys: str
) -> None:
    for pairs in ([(5, 6), (5, 6), (0, 3), (4, 0), (1, 6), (3, 2)], [(2, 0)], [(0, 2)], []):
        tensors, where, _ = inputs(fits(name, pairs), key_heads=key_heads, keys=keys)
        with backend("plain"):
            expected = with_gradients(attend(*tensors, **where, **PATTERNS[name]), tensors)
        asked = packed_kernels(kernel)
        assert close(with_gradients(attend(*tensors, **where, **PATTERNS[name]), tensors), expected)
        assert set(asked) <= {asks}
    assert asked or kernel == "explicit"
