"""Cross-entropy in chunks equals that of all rows at once, and never holds the scores of all rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.work import product_flops
from seqlab.layers import heads
from seqlab.layers.backend import backend
from seqlab.layers.crf import CRFHead
from seqlab.layers.heads import Head, RegressionHead, SigmoidHead, SoftmaxHead, chunk_rows
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.models.encoders import RecurrentEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import IGNORED

CPU = torch.device("cpu")
WIDTH, CLASSES, CHUNK = 6, 7, 5


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows make several chunks."""
    monkeypatch.setattr(heads, "chunk_rows", lambda classes, device: CHUNK)


WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.5]


def make(
    smoothing: float = 0.0, dtype: torch.dtype = torch.float64, class_weights: list[float] | None = None
) -> SoftmaxHead:
    torch.manual_seed(0)
    head = SoftmaxHead(WIDTH, CLASSES, None, smoothing, class_weights).to(dtype)
    nn.init.normal_(head.bias)
    return head


def rows_and_targets(rows: int, ignored: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden_TD = torch.randn(rows, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    targets_T = torch.randint(CLASSES, (rows,), generator=generator)
    return hidden_TD, targets_T.masked_fill(torch.rand(rows, generator=generator) < ignored, IGNORED)


def row_by_row(head: SoftmaxHead, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
    """Szegedy et al. 2016, section 7: the cross-entropy of (1 - s) one-hot + s / V, row after row."""
    total = hidden_TD.sum() * 0
    for h_D, target in zip(hidden_TD, targets_T.tolist(), strict=True):
        if target != IGNORED:
            wanted_V = torch.full((CLASSES,), head.label_smoothing / CLASSES, dtype=hidden_TD.dtype)
            wanted_V[target] += 1 - head.label_smoothing
            weight = 1 if head.class_weights is None else head.class_weights[target]
            total = total - weight * (wanted_V @ torch.log_softmax(head.weight @ h_D + head.bias, 0))
    return total


def gradients(head: SoftmaxHead, loss: Tensor, hidden_TD: Tensor) -> list[Tensor]:
    inputs = [hidden_TD, head.weight, head.bias]
    return list(torch.autograd.grad(loss * 0.7, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@given(
    rows=st.one_of(st.sampled_from([0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK]), st.integers(0, 40)),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_loss_and_gradients_are_those_of_row_after_row(
    path: str, smoothing: float, class_weights: list[float] | None, rows: int, ignored: float
) -> None:
    head = make(smoothing, class_weights=class_weights)
    hidden_TD, targets_T = rows_and_targets(rows, ignored)
    expected = row_by_row(head, hidden_TD, targets_T)
    with backend(path):  # type: ignore[arg-type]
        loss = head.loss(hidden_TD, targets_T)
    assert loss.dtype == torch.float64
    assert abs((loss - expected).item()) < 1e-11
    for ours, theirs in zip(gradients(head, loss, hidden_TD), gradients(head, expected, hidden_TD), strict=True):
        assert ours.shape == theirs.shape
        assert rows == 0 or (ours - theirs).abs().max() < 1e-11


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_float32_stays_within_rounding_also_where_scores_are_large(smoothing: float) -> None:
    head = make(smoothing, torch.float32)
    nn.init.normal_(head.weight, std=50)
    hidden_TD, targets_T = rows_and_targets(23, 0.2, torch.float32)
    loss = head.loss(hidden_TD, targets_T)
    with backend("plain"):
        expected = head.loss(hidden_TD, targets_T)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(gradients(head, loss, hidden_TD), gradients(head, expected, hidden_TD), strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(smoothing: float) -> None:
    head = make(smoothing)
    hidden_TD, targets_T = rows_and_targets(2 * CHUNK + 1, 0.3)

    def loss(hidden_TD: Tensor, *_: Tensor) -> Tensor:
        return head.loss(hidden_TD, targets_T)

    assert torch.autograd.gradcheck(loss, (hidden_TD, head.weight, head.bias))


def test_a_shared_weight_gets_both_gradients() -> None:
    table = nn.Parameter(torch.randn(CLASSES, WIDTH, dtype=torch.float64))
    head = SoftmaxHead(WIDTH, CLASSES, table).double()
    tokens_T, targets_T = torch.randint(CLASSES, (2, 13))
    found = []
    for path in ("fast", "plain"):
        with backend(path):  # type: ignore[arg-type]
            loss = head.loss(torch.tanh(table[tokens_T]), targets_T)
        found.append(torch.autograd.grad(loss, table)[0])
    alone = torch.autograd.grad(head.loss(torch.tanh(table[tokens_T]).detach(), targets_T), table)[0]
    assert (found[0] - found[1]).abs().max() < 1e-12
    assert (found[0] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_its_own(frozen: str) -> None:
    head = make()
    hidden_TD, targets_T = rows_and_targets(12, 0.2)
    inputs = {"hidden": hidden_TD, "weight": head.weight, "bias": head.bias}
    whole = dict(zip(inputs, gradients(head, head.loss(hidden_TD, targets_T), hidden_TD), strict=True))
    inputs.pop(frozen).requires_grad_(False)
    found = torch.autograd.grad(head.loss(hidden_TD, targets_T) * 0.7, list(inputs.values()))
    for name, gradient in zip(inputs, found, strict=True):
        assert torch.equal(gradient, whole[name])
    for tensor in inputs.values():
        tensor.requires_grad_(False)
    assert not head.loss(hidden_TD, targets_T).requires_grad


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_smoothing_and_class_weights_are_for_training_only(class_weights: list[float] | None) -> None:
    head = make(0.0 if class_weights else 0.3, class_weights=class_weights)
    hidden_TD, targets_T = rows_and_targets(9, 0.0)
    smoothed = head.loss(hidden_TD, targets_T).item()
    exact = make().loss(hidden_TD, targets_T).item()
    head.eval()
    assert head.loss(hidden_TD, targets_T).item() == exact != smoothed
    with backend("plain"):
        assert head.loss(hidden_TD, targets_T).item() == pytest.approx(exact, rel=1e-12)
    model = LanguageModel(RecurrentEncoder(CLASSES, LSTMCell, width=WIDTH), CLASSES, label_smoothing=0.3)
    assert model.head.label_smoothing == 0.3
    with pytest.raises(ValueError, match=r"label_smoothing=1\.0: expected"):
        LanguageModel(RecurrentEncoder(CLASSES, LSTMCell, width=WIDTH), CLASSES, label_smoothing=1.0)


@pytest.mark.parametrize("kind", [SoftmaxHead, SigmoidHead, CRFHead])
@pytest.mark.parametrize("target", [CLASSES, -1])
def test_a_target_that_is_no_class_is_refused(kind: type[Head], target: int) -> None:
    with pytest.raises(RuntimeError, match=r"out of bounds|must be (smaller|non-negative)"):
        kind(WIDTH, CLASSES).loss(torch.zeros(1, WIDTH), torch.tensor([target]), torch.tensor([1]))


@pytest.mark.parametrize("kind", [SoftmaxHead, SigmoidHead])
@pytest.mark.parametrize("class_weights", [WEIGHTS[1:], [-0.5, *WEIGHTS[1:]]])
def test_there_is_a_weight_for_each_class_and_none_is_negative(kind: type[Head], class_weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"class_weights=.*expected 7 numbers"):
        kind(WIDTH, CLASSES, class_weights=class_weights)


LABELS = st.lists(st.lists(st.sampled_from([0, 1, 3, 6, 6, IGNORED]), max_size=4), max_size=6)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@given(labels=LABELS)
@example(labels=[])
@example(labels=[[], [IGNORED], [2, 2, 0], [1, IGNORED]])
def test_labels_are_independent_of_each_other_row_after_row(
    class_weights: list[float] | None, labels: list[list[int]]
) -> None:
    torch.manual_seed(0)
    head = SigmoidHead(WIDTH, CLASSES, class_weights).double()
    hidden_BD = torch.randn(len(labels), WIDTH, dtype=torch.float64, requires_grad=True)
    expected = hidden_BD.sum() * 0
    for h_D, these in zip(hidden_BD, labels, strict=True):
        for c in range(CLASSES):
            p = 1 / (1 + torch.exp(-(head.weight[c] @ h_D + head.bias[c])))
            if IGNORED not in these:
                expected = expected - (class_weights or [1.0] * CLASSES)[c] * torch.log(p if c in these else 1 - p)
    targets_T = torch.tensor([label for these in labels for label in these], dtype=torch.int64)
    lengths = torch.tensor([len(these) for these in labels], dtype=torch.int64)
    loss = head.loss(hidden_BD, targets_T, lengths)
    assert abs((loss - expected).item()) < 1e-11
    for ours, theirs in zip(gradients(head, loss, hidden_BD), gradients(head, expected, hidden_BD), strict=True):
        assert ours.numel() == 0 or (ours - theirs).abs().max() < 1e-11
    head.eval()
    equal = SigmoidHead(WIDTH, CLASSES).double()
    equal.load_state_dict(head.state_dict())
    assert torch.equal(head.loss(hidden_BD, targets_T, lengths), equal.loss(hidden_BD, targets_T, lengths))


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_squared_errors_add_up_and_a_target_that_is_no_number_adds_nothing(rows: int) -> None:
    torch.manual_seed(0)
    head = RegressionHead(WIDTH).double()
    hidden_BD = torch.randn(rows, WIDTH, dtype=torch.float64, requires_grad=True)
    targets_B = torch.randn(rows, dtype=torch.float64)
    targets_B[1::3], targets_B[2::3] = torch.nan, IGNORED
    expected = hidden_BD.sum() * 0
    for h_D, target in zip(hidden_BD, targets_B.tolist(), strict=True):
        if target == target:
            expected = expected + (head.weight[0] @ h_D + head.bias[0] - target) ** 2
    loss = head.loss(hidden_BD, targets_B)
    assert abs((loss - expected).item()) < 1e-11 * max(1.0, expected.item())
    for ours, theirs in zip(gradients(head, loss, hidden_BD), gradients(head, expected, hidden_BD), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_probabilities_and_the_likeliest_class() -> None:
    softmax, sigmoid = make(), SigmoidHead(WIDTH, CLASSES).double()
    hidden_TD, _ = rows_and_targets(9, 0.0)
    shares = softmax.scores(hidden_TD).exp()
    assert torch.allclose(softmax.probabilities(hidden_TD), shares / shares.sum(1, keepdim=True))
    assert torch.equal(softmax.decode(hidden_TD), shares.argmax(1))
    assert torch.allclose(sigmoid.probabilities(hidden_TD), 1 / (1 + sigmoid.scores(hidden_TD).neg().exp()))
    for head in (softmax, sigmoid):
        assert head.to(torch.bfloat16).probabilities(hidden_TD.bfloat16()).dtype == torch.float32


class Watch(TorchDispatchMode):
    """The most elements of any tensor that an operator returns, and the FLOPs of all products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.flops = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.untyped_storage().nbytes() // out.element_size())
        self.flops += product_flops(func, args)
        return out


@pytest.mark.parametrize("autocast", [False, True])
def test_the_scores_of_all_rows_never_exist_and_no_product_is_computed_twice(
    monkeypatch: pytest.MonkeyPatch, autocast: bool
) -> None:
    monkeypatch.undo()  # chunks as they are
    rows, classes = 3000, 9000
    head, hidden_TD = SoftmaxHead(4, classes), torch.randn(rows, 4, requires_grad=True)
    targets_T = torch.randint(classes, (rows,))
    with Watch() as watch, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        head.loss(hidden_TD, targets_T).backward()
    assert chunk_rows(classes, CPU) * classes <= 2**22
    assert watch.largest <= 2**22 < rows * classes
    assert watch.flops == head.flops(rows) == 6 * 4 * classes * rows
    with Watch() as watch, torch.no_grad():
        head.loss(hidden_TD, targets_T)
    assert watch.flops == head.flops(rows) / 3
    with Watch() as watch, backend("plain"):  # which does hold them
        head.loss(hidden_TD, targets_T)
    assert watch.largest == rows * classes


def test_chunks_have_a_size_by_rule() -> None:
    assert [chunk_rows(classes, CPU) for classes in (1, 1024, 32_768, 10**6)] == [2**22, 4096, 128, 128]
    assert chunk_rows(1024, torch.device("cuda")) == 65_536


def test_bf16_products_and_float32_sums() -> None:
    head = SoftmaxHead(64, 50)
    nn.init.normal_(head.bias)
    hidden_TD = torch.randn(203, 64, requires_grad=True)
    targets_T = torch.randint(50, (203,))
    found = []
    for path, autocast in (("fast", True), ("plain", True), ("fast", False)):
        with backend(path), torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # type: ignore[arg-type]
            loss = head.loss(hidden_TD, targets_T)
        assert loss.dtype == torch.float32
        found.append([loss, *gradients(head, loss, hidden_TD)])
    narrow, plain, exact = found
    assert all(tensor.dtype == torch.float32 for tensor in narrow)
    assert narrow[0].item() == pytest.approx(plain[0].item(), rel=1e-5)
    for one, other, true in zip(narrow[1:], plain[1:], exact[1:], strict=True):
        scale = true.abs().max()
        assert (one - other).abs().max() < 0.02 * scale
        assert 0 < (one - true).abs().max() < 0.02 * scale
    # 41 chunks of 5 rows: a gradient added up in bfloat16 would lose what is small next to the sum.
    ones = torch.ones(4096 * CHUNK, 1)
    head = SoftmaxHead(1, 2)
    nn.init.zeros_(head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        head.loss(ones, torch.zeros(len(ones), dtype=torch.int64)).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.flatten().tolist() == [-len(ones) / 2, len(ones) / 2]


def test_autocast_leaves_float64_alone() -> None:
    head = make(0.3)
    hidden_TD, targets_T = rows_and_targets(9, 0.2)
    exact = head.loss(hidden_TD, targets_T)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.loss(hidden_TD, targets_T), exact)


def test_half_precision_parameters_get_gradients_of_their_own_type() -> None:
    head = make(dtype=torch.float32).to(torch.bfloat16)
    hidden_TD, targets_T = rows_and_targets(11, 0.0, torch.bfloat16)
    loss = head.loss(hidden_TD, targets_T)
    assert loss.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients(head, loss, hidden_TD)} == {torch.bfloat16}
