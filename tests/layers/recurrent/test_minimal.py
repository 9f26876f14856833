"""Linear recurrences: all ways of scanning equal one multiplication and one addition after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import reference
from seqlab.layers.recurrent import compiled, minimal
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell, linear_recurrence
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.ragged import Layout, Ragged, time_major_of

WAYS = ["machine code", "by steps", "by halving"]
LENGTHS = st.lists(st.one_of(st.integers(0, 6), st.just(4), st.just(33)), max_size=6)


def one_by_one(x: Ragged, initial_BH: Tensor, reverse: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The definition, for rows [a, b]: the states of every sequence, and its last state."""
    states, last = [], []
    for rows, h in zip(x.to_list(), initial_BH, strict=True):
        outputs = []
        for row in rows.flip(0) if reverse else rows:
            a, b = row.chunk(2)
            h = a * h + b
            outputs.append(h)
        states.append(torch.stack(outputs[::-1] if reverse else outputs) if outputs else rows[:, : len(h)])
        last.append(h)
    return states, last


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "machine code":
        if not compiled.can_run(torch.zeros(1)):
            pytest.skip("no C++ compiler here")
        return
    monkeypatch.setattr(compiled, "can_run", lambda x: False)
    if request.param == "by halving":  # the way of other devices
        monkeypatch.setattr(minimal, "_scan_by_steps", minimal._scan_by_halving)


def differences(lengths: list[int], reverse: bool, dtype: torch.dtype, saturated: bool = False) -> dict[str, float]:
    """Largest differences to the definition, of the states and of all gradients, on the same random rows."""
    generator = torch.Generator().manual_seed(len(lengths))
    layout = Layout(torch.tensor(lengths, dtype=torch.int64))
    a = torch.rand(layout.total, 3, generator=generator, dtype=dtype)
    a = torch.where(a < 0.3, 0.0, torch.where(a > 0.7, 1.0, a)) if saturated else a
    a.requires_grad_()
    b = torch.randn(layout.total, 3, generator=generator, dtype=dtype).requires_grad_()
    initial = torch.randn(len(lengths), 3, generator=generator, dtype=dtype).requires_grad_()
    index, inverse, longest, _ = time_major_of(layout.lengths)
    h, last = linear_recurrence(a[index], b[index], layout.lengths[longest], initial[longest], reverse)
    ours = [*h[inverse].split(lengths or 0), *last[torch.argsort(longest)]] if lengths else [h]
    states, ends = one_by_one(Ragged(torch.cat([a, b], 1), layout), initial, reverse)
    theirs = [*states, *ends] if lengths else [a * b]
    weights = [torch.randn(y.shape, generator=generator, dtype=dtype) for y in theirs]
    grads = [
        torch.autograd.grad(
            sum(
                ((x * w).sum() for x, w in zip(y, weights, strict=True)), start=0 * (a.sum() + b.sum() + initial.sum())
            ),
            [a, b, initial],
        )
        for y in (ours, theirs)
    ]
    named = dict(zip(("a", "b", "initial"), zip(*grads, strict=True), strict=True))
    pairs = [*zip(ours, theirs, strict=True)]
    return {
        "h": max((float((x - y).detach().abs().max()) for x, y in pairs if y.numel()), default=0.0),
        **{name: float((x - y).abs().max()) if x.numel() else 0.0 for name, (x, y) in named.items()},
    }


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("reverse", [False, True])
@given(lengths=LENGTHS)
@example(lengths=[])
@example(lengths=[0, 0])
@example(lengths=[1])
@example(lengths=[7, 7, 7])
@example(lengths=[3, 2000, 0, 1])
def test_a_scan_equals_its_definition(reverse: bool, lengths: list[int]) -> None:
    assert max(differences(lengths, reverse, torch.float64).values()) < 1e-11


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_that_are_shut_or_open_are_exact(reverse: bool) -> None:
    found = differences([40, 1, 300, 0, 17], reverse, torch.float64, saturated=True)
    assert max(found.values()) < 1e-11


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("reverse", [False, True])
def test_float32_stays_within_rounding(reverse: bool) -> None:
    assert max(differences([40, 1, 300, 0, 17], reverse, torch.float32).values()) < 1e-4


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_finite_differences(reverse: bool) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([5, 2, 2, 1, 0])
    given = [torch.rand(10, 2).double(), torch.randn(10, 2).double(), torch.randn(5, 2).double()]

    def scanned(a: Tensor, b: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        return linear_recurrence(a, b, lengths, initial, reverse)

    assert torch.autograd.gradcheck(scanned, [tensor.requires_grad_() for tensor in given])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("cell", [MinGRUCell, MinLSTMCell])
@pytest.mark.parametrize("lengths", [[2000, 3, 0, 1], [12] * 40])
def test_a_cell_equals_its_equation_over_thousands_of_tokens(cell: type[nn.Module], lengths: list[int]) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(4, 4, cell).double()
    x = torch.randn(sum(lengths), 4).double().requires_grad_()
    layout = Layout(torch.tensor(lengths))
    ours = stack(Ragged(x, layout)).values
    theirs = torch.cat([reference.stack(stack, rows) for rows in x.split(lengths)])
    assert (ours - theirs).abs().max() < 1e-11
    weights = torch.randn_like(x)
    a, b = (torch.autograd.grad((y * weights).sum(), [x, *stack.parameters()]) for y in (ours, theirs))
    assert max(float((one - other).abs().max()) for one, other in zip(a, b, strict=True)) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", [MinGRUCell, MinLSTMCell])
def test_saturated_gates_stay_finite_and_right(cell: type[nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    one = cell(3, 4).to(dtype)
    gates = one.gates.out_features // 4
    one.gates.weight.data.zero_()
    one.gates.bias.data.zero_()
    one.gates.weight.data[:, 0] = 1  # the first feature is every pre-activation
    one.gates.weight.data[4 * (gates - 1) :, 0] = 0.01  # and the candidate stays moderate
    if gates == 3:
        one.gates.weight.data[4:8, 0] = 0
        one.gates.weight.data[4:8, 1] = 1  # the second is minLSTM's input gate
    values = torch.tensor([-100.0, 100.0, 0.0, -100.0, 100.0, -30.0])
    x = torch.stack([values.repeat_interleave(6), values.repeat(6), torch.zeros(36)], 1).to(dtype).requires_grad_()
    outputs, last = one.unroll(x, torch.tensor([20, 16]), [torch.full((2, 4), 2.0, dtype=dtype)], False)
    grads = torch.autograd.grad(outputs.sum() + last[0].sum(), [x, *one.parameters()])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (outputs, *grads))
    exact = copy.deepcopy(one).double()
    x_exact = x.detach().double().requires_grad_()
    rows, states, expected = list(x_exact), [x_exact.new_full((4,), 2.0)] * 2, []
    for t in range(20):
        for j in range(2 if t < 16 else 1):
            (states[j],) = dict(reference.EQUATIONS)[cell](exact, rows.pop(0), [states[j]])
            expected.append(states[j])
    total = torch.stack(expected).sum() + states[0].sum() + states[1].sum()
    pairs = zip(grads, torch.autograd.grad(total, [x_exact, *exact.parameters()]), strict=True)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    assert (outputs - torch.stack(expected)).abs().max() < tolerance
    assert max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs) < tolerance


def test_gates_of_minlstm_do_not_need_the_sum_of_two_gates_that_vanish() -> None:
    cell = MinLSTMCell(1, 1)
    cell.gates.weight.data.zero_()
    cell.gates.bias.data.copy_(torch.tensor([-110.0, -111.0, 0.0]))  # both underflow to 0 in float32
    assert torch.sigmoid(cell.gates.bias)[:2].tolist() == [0, 0]
    a, b = cell.project(torch.zeros(1, 1))[0].tolist()
    share = 1 / (1 + torch.exp(torch.tensor(-1.0)))
    assert a == pytest.approx(float(share))
    assert b == pytest.approx(float(1 - share) * 0.5)


@pytest.mark.parametrize("cell", [MinGRUCell, MinLSTMCell])
def test_under_autocast_the_product_is_bf16_and_the_gates_are_not(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    one, x = cell(16, 16), torch.randn(50, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert one.gates(x).dtype == torch.bfloat16
        projected = one.project(x)
    assert projected.dtype == torch.float32
    assert (projected != projected.bfloat16()).double().mean() > 0.9  # a gate near 1 needs more than 8 bits
