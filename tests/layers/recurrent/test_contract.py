"""A cell of any module, its state nested at will, equals the one whose state is a list; and mistakes are told."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.exporting.formats.torchscript import scripted
from seqlab.exporting.requirements import UnsuitedError
from seqlab.layers.recurrent.stack import RecurrentStack


class Listed(nn.Module):
    """An LSTM of a kind with a counter; the others below differ in the nesting of their state only."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.linear = nn.Linear(input_size + hidden_size, 2 * hidden_size)
        self.begin = nn.Parameter(torch.zeros(hidden_size))

    def tensors(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        zeros = self.begin.new_zeros(batch, self.hidden_size)
        return zeros + self.begin, zeros, zeros[:, 0]

    def equation(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, new = self.linear(torch.cat([x, h], 1)).chunk(2, 1)
        c = torch.sigmoid(gate) * c + torch.tanh(new) / (n + 1).unsqueeze(1)
        return torch.tanh(c), c, n + 1

    def initial_state(self, batch: int) -> Any:
        return list(self.tensors(batch))

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c, n = self.equation(x, *state)
        return h, [h, c, n]


class Tupled(Listed):
    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return self.tensors(batch)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        after = self.equation(x, *state)
        return after[0], after


class Keyed(Listed):
    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return dict(zip("hcn", self.tensors(batch), strict=True))

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        h, c, n = self.equation(x, state["h"], state["c"], state["n"])
        return h, {"n": n, "c": c, "h": h}  # the keys' order is free


class Memory(NamedTuple):
    c: Tensor
    n: Tensor


@dataclasses.dataclass
class Whole:
    h: Tensor
    memory: Memory


class Named(Listed):
    def initial_state(self, batch: int) -> Whole:
        h, c, n = self.tensors(batch)
        return Whole(h, Memory(c, n))

    def forward(self, x: Tensor, state: Whole) -> tuple[Tensor, Whole]:
        h, c, n = self.equation(x, state.h, state.memory.c, state.memory.n)
        return h, Whole(h, Memory(c=c, n=n))


class Nested(Listed):
    def initial_state(self, batch: int) -> list[Any]:
        h, c, n = self.tensors(batch)
        return [{"h": (h,)}, [c, {"n": n}]]

    def forward(self, x: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        h, c, n = self.equation(x, *state[0]["h"], state[1][0], state[1][1]["n"])
        return h, [{"h": (h,)}, [c, {"n": n}]]


class Bare(nn.Module):
    """The state is a tensor alone; what is read is projected beforehand."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)
        self.hidden_size = hidden_size

    def initial_state(self, batch: int) -> Any:
        return self.linear.weight.new_zeros(batch, self.hidden_size)

    def project(self, x_TD: Tensor) -> Tensor:
        return self.linear(x_TD)

    def forward(self, x_BH: Tensor, h_BH: Any) -> tuple[Tensor, Any]:
        h_BH = torch.tanh(x_BH + h_BH)
        return h_BH, h_BH


class BareListed(Bare):
    def initial_state(self, batch: int) -> list[Tensor]:
        return [super().initial_state(batch)]

    def forward(self, x_BH: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h_BH, _ = super().forward(x_BH, state[0])
        return h_BH, [h_BH]


PAIRS = [(Tupled, Listed), (Keyed, Listed), (Named, Listed), (Nested, Listed), (Bare, BareListed)]
LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=5)


def two(one: type[nn.Module], other: type[nn.Module], bidirectional: bool) -> list[RecurrentStack]:
    stacks = [RecurrentStack(4, 3, cell, layers=2, bidirectional=bidirectional).double() for cell in (one, other)]
    generator = torch.Generator().manual_seed(0)
    for a, b in zip(*(stack.parameters() for stack in stacks), strict=True):
        a.data.copy_(torch.randn(a.shape, generator=generator, dtype=a.dtype))
        b.data.copy_(a)
    return stacks


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "listed"), PAIRS)
@given(pairs=LENGTHS)
def test_any_nesting_equals_the_list(
    cell: type[nn.Module], listed: type[nn.Module], bidirectional: bool, pairs: list[tuple[int, int]]
) -> None:
    lengths = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    x = [torch.randn(int(column.sum()), 4).double().requires_grad_() for column in lengths.t()]
    found = []
    for stack in two(cell, listed, bidirectional):
        first, state = stack.core(x[0], lengths[:, 0])
        second, end = stack.core(x[1], lengths[:, 1], state)
        total = torch.cat([first, second]).square().sum() + sum(tensor.square().sum() for tensor in end)
        grads = torch.autograd.grad(total, [*x, *stack.parameters()], allow_unused=True, materialize_grads=True)
        found.append([first, second, *end, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("cell", "listed"), PAIRS)
def test_steps_and_copies_of_a_nested_cell_equal_the_list(cell: type[nn.Module], listed: type[nn.Module]) -> None:
    nested, plain = two(cell, listed, bidirectional=False)
    x = torch.randn(5, 4).double()
    expected = plain.step(x, plain.initial_state(5))
    for stack in (nested, copy.deepcopy(nested), pickle.loads(pickle.dumps(nested))):
        output, state = stack.step(x, stack.initial_state(5))
        assert torch.equal(output, expected[0])
        assert all(torch.equal(a, b) for a, b in zip(state, expected[1], strict=True))


@pytest.mark.parametrize(("cell", "kind"), [(Tupled, "tuple"), (Keyed, "dict"), (Named, "Whole"), (Bare, "Tensor")])
def test_scripting_a_nested_cell_says_what_to_return(cell: type[nn.Module], kind: str) -> None:
    with pytest.raises(UnsuitedError, match=rf"{cell.__name__} keeps its state as {kind}.*return list\[Tensor\]"):
        scripted(RecurrentStack(4, 3, cell))


def broken(
    begin: Callable[[int], Any] = lambda batch: [torch.zeros(batch, 3)],
    step: Callable[[Tensor, Any], Any] = lambda x, state: (state[0], state),
) -> Callable[[int, int], Any]:
    """A cell that does what it is told to."""

    class Cell(nn.Module):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__()

        def initial_state(self, batch: int) -> Any:
            return begin(batch)

        def forward(self, x: Tensor, state: Any) -> Any:
            return step(x, state)

    return Cell


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (lambda batch: [torch.zeros(3)], r"initial_state\(0\) gave one of shape \[3\]"),
        (lambda batch: [torch.zeros(1, 3)], r"must return tensors \[batch, ...\].*\[1, 3\]"),
        (lambda batch: (torch.zeros(batch, 3), torch.tensor(0.0)), r"one of shape \[\]"),
        (lambda batch: None, "state must be a tensor, got NoneType"),
        (lambda batch: {"h": torch.zeros(batch, 3), "n": 0}, r"state\['n'\] must be a tensor, got int"),
    ],
)
def test_an_initial_state_that_breaks_the_contract_is_refused_when_built(
    begin: Callable[[int], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentStack(4, 3, broken(begin))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda x, state: (state[0][:, :2], state),
            r"output of shape \[2, 2\] where \[batch, hidden_size\] is \[2, 3\]",
        ),
        (lambda x, state: (state[0].mean(0), state), r"output of shape \[3\]"),
        (lambda x, state: (state[0].unsqueeze(1), state), r"output of shape \[2, 1, 3\]"),
        (lambda x, state: (state[0], [state[0].mean(0, True)]), r"shape \[2, 3\] and returned one of shape \[1, 3\]"),
        (lambda x, state: (state[0], [*state, state[0]]), "got 1 state tensors and returned 2"),
        (lambda x, state: (state[0], []), "got 1 state tensors and returned 0"),
        (lambda x, state: (state[0], state[0]), "returned a tensor as its state"),
        (lambda x, state: state[0], "returned a tensor as its state"),  # two rows, taken for output and state
    ],
)
def test_a_step_that_breaks_the_contract_is_told(step: Callable[[Tensor, Any], Any], message: str) -> None:
    stack = RecurrentStack(4, 3, broken(step=step))
    with pytest.raises(ValueError, match=f"Cell .*{message}"):
        stack.core(torch.zeros(4, 4), torch.tensor([3, 1]))
    with pytest.raises(ValueError, match=f"Cell .*{message}"):
        stack.step(torch.zeros(2, 4), stack.initial_state(2))


def test_a_mistake_that_a_width_of_one_hides_is_told_when_reading_from_the_end() -> None:
    stack = RecurrentStack(4, 3, broken(step=lambda x, state: (state[0], [state[0].mean(0, True)])))
    stack.layers[0][0].reverse = True
    with pytest.raises(ValueError, match=r"returned one of shape \[1, 3\]"):
        stack.core(torch.zeros(4, 4), torch.tensor([3, 1]))


@pytest.mark.parametrize(
    ("after", "shown"),
    [
        ({"h": torch.zeros(2, 3)}, r"dict\(h, c\), got dict\(h\)"),
        ([torch.zeros(2, 3)] * 2, r"dict\(h, c\), got list\(0, 1\)"),
    ],
)
def test_a_nested_state_must_stay_nested_alike(after: Any, shown: str) -> None:
    begin, step = lambda batch: dict.fromkeys("hc", torch.zeros(batch, 3)), lambda x, state: (state["h"], after)
    stack = RecurrentStack(4, 3, broken(begin, step))
    with pytest.raises(ValueError, match=f"nested as initial_state.*{shown}"):
        stack.core(torch.zeros(2, 4), torch.tensor([1, 1]))


def test_an_unroll_of_its_own_wants_lists() -> None:
    class Unrolling(Tupled):
        def unroll(self, values: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool) -> Any: ...

    with pytest.raises(ValueError, match=r"state as tuple and has an unroll.*list\[Tensor\]"):
        RecurrentStack(4, 3, Unrolling)


def test_a_module_without_an_initial_state_is_no_cell() -> None:
    with pytest.raises(ValueError, match=r"Linear has no initial_state\(batch\)"):
        RecurrentStack(4, 3, nn.Linear)  # type: ignore[arg-type]


def test_a_carried_state_must_fit_the_batch() -> None:
    stack = RecurrentStack(4, 3, Listed, layers=2)
    x, lengths = torch.zeros(3, 4), torch.tensor([2, 1])
    _, state = stack.core(x, lengths)
    with pytest.raises(ValueError, match=r"a state of 1 sequences is expected, tensors of shapes \[\[1, 3\], "):
        stack.core(x[:2], lengths[:1], state)
    with pytest.raises(ValueError, match=r"a state of 2 sequences is expected, tensors of shapes \[\[2, 3\], "):
        stack.core(x, lengths, state[:3])
