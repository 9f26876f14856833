"""The recurrences' loops agree: in machine code, by torch's operators, and torch's own packed one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqlab.layers.native import compiler
from seqlab.layers.recurrent import compiled as compiled_loops
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.cudnn import has_cudnn, unroll_cudnn
from seqlab.layers.recurrent.steps import end_rows, previous_rows, reversed_rows
from seqlab.ragged import time_major_of

CELLS = {"lstm": LSTMCell, "gru": GRUCell, "rnn_tanh": TanhCell}
LENGTHS = st.lists(st.one_of(st.integers(0, 5), st.just(3), st.just(40)), max_size=20)

needs_compiler = pytest.mark.skipif(compiler.library("recurrence") is None, reason="no C++ compiler here")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def longest_first(lengths: list[int]) -> Tensor:
    return torch.tensor(sorted(lengths, reverse=True), dtype=torch.int64)


def unrolled(kind: str, how: str, hidden: int, lengths: Tensor, reverse: bool, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and final state of a cell with random state and weights, and the gradients of everything that went in."""
    torch.manual_seed(0)
    cell = CELLS[kind](3, hidden).to(dtype)
    x = torch.randn(int(lengths.sum()), 3, dtype=dtype, requires_grad=True)
    state = [torch.randn(len(lengths), hidden, dtype=dtype, requires_grad=True) for _ in cell.initial_state(0)]
    if how == "packed":
        y, after = unroll_cudnn(kind, x, cell.weights(), lengths, state, reverse)  # type: ignore[arg-type]
    else:
        with pytest.MonkeyPatch.context() as patch:
            if how == "operators":
                patch.setattr(compiled_loops, "can_run", lambda x: False)
            else:
                assert compiled_loops.can_run(x)
            return gradients(*cell.unroll(x, lengths, state, reverse), [x, *state, *cell.parameters()])
    return gradients(y, after, [x, *state, *cell.parameters()])


def gradients(y: Tensor, after: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    total = sum((s * torch.randn(s.shape, dtype=s.dtype, generator=generator)).sum() for s in [y, *after])
    return [s.detach() for s in (y, *after, *torch.autograd.grad(total, inputs))]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1)) for x, y in zip(a, b, strict=True) if len(x))


@needs_compiler
@pytest.mark.parametrize("hidden", [1, 16, 37, 130])  # below, at and between the widths of vectors, panels, threads
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.usefixtures("two_threads")
def test_machine_code_equals_operators(kind: str, reverse: bool, hidden: int) -> None:
    for lengths in ([], [0, 0], [1], [9, 9, 9], [70, 31, 7, 7, 3, 1, 0], [5] * 45, [300, 2]):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            both = [
                unrolled(kind, how, hidden, longest_first(lengths), reverse, dtype) for how in ("code", "operators")
            ]
            assert not lengths or apart(*both) < tolerance


@pytest.mark.parametrize("how", ["code", "packed"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", CELLS)
@given(lengths=LENGTHS)
@example(lengths=[0])
def test_all_loops_agree_on_any_lengths(kind: str, reverse: bool, how: str, lengths: list[int]) -> None:
    if how == "code" and compiler.library("recurrence") is None:
        pytest.skip("no C++ compiler here")
    if how == "packed" and sum(lengths) == 0:
        return  # torch's own takes no empty batch, and is not asked
    both = [unrolled(kind, one, 5, longest_first(lengths), reverse, torch.float64) for one in (how, "operators")]
    assert not lengths or apart(*both) < 1e-12


@needs_compiler
def test_machine_code_is_exact_far_from_zero_and_says_nan() -> None:
    lengths = torch.tensor([1])
    for size in (1e-4, 0.3, 0.62, 0.63, 1.0, 5.0, 9.0, 30.0, 1e4, float("inf")):
        for sign in (-1, 1):
            x = torch.full([1, 16], sign * size)
            tanh = compiled_loops.tanh(x, torch.zeros(16, 16), torch.zeros(1, 16), lengths, False)
            assert torch.allclose(tanh, x.double().tanh().float(), rtol=3e-7, atol=0)
            zeros = torch.zeros(1, 16)
            gates = x.repeat(1, 4)
            compiled_loops.lstm(gates, torch.zeros(64, 16), zeros, zeros, lengths, False)
            assert torch.allclose(gates[:, :16], x.double().sigmoid().float(), rtol=1e-6, atol=1e-37)
    x = torch.zeros(1, 16)
    x[0, 3] = torch.nan
    assert compiled_loops.tanh(x, torch.zeros(16, 16), torch.zeros(1, 16), lengths, False).isnan().sum() == 1


@pytest.mark.parametrize("how", ["code", "operators"])
@pytest.mark.parametrize("cell", CELLS.values())
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_finite_differences(
    cell: type[nn.Module], reverse: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "operators":
        monkeypatch.setattr(compiled_loops, "can_run", lambda x: False)
    elif compiler.library("recurrence") is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    one = cell(2, 3).double()
    lengths = torch.tensor([4, 2, 2, 1, 0])
    names = [name for name, _ in one.named_parameters()]
    inputs = [torch.randn(9, 2).double().requires_grad_()]
    inputs += [torch.randn(5, 3).double().requires_grad_() for _ in one.initial_state(5)]
    inputs += [parameter.detach().clone().requires_grad_() for parameter in one.parameters()]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, weights = rest[: -len(names)], rest[-len(names) :]
        for name, weight in zip(names, weights, strict=True):
            delattr(one, name)
            setattr(one, name, weight)
        outputs, after = one.unroll(x, lengths, list(state), reverse)
        return outputs, *after

    assert torch.autograd.gradcheck(run, inputs)


def test_rows_of_the_example_in_the_docstring() -> None:
    lengths, rows = torch.tensor([3, 2, 1]), torch.arange(6.0).unsqueeze(1)
    first, last = end_rows(lengths)
    assert first.tolist() == [0, 1, 2]
    assert last.tolist() == [5, 4, 2]
    initial = torch.tensor([[-1.0], [-2.0], [-3.0]])
    assert previous_rows(rows, initial, lengths, False).flatten().tolist() == [-1, -2, -3, 0, 1, 3]
    assert previous_rows(rows, initial, lengths, True).flatten().tolist() == [3, 4, -3, 5, -2, -1]


@given(lengths=LENGTHS)
def test_turning_every_sequence_round(lengths: list[int]) -> None:
    given_lengths = torch.tensor(lengths, dtype=torch.int64)
    sequences = [torch.arange(length) + 100 * i for i, length in enumerate(lengths)]
    flat = torch.cat(sequences) if lengths else torch.zeros(0)
    turned = torch.cat([one.flip(0) for one in sequences]) if lengths else flat
    index, _, longest, _ = time_major_of(given_lengths)
    assert torch.equal(flat[index][reversed_rows(given_lengths[longest])], turned[index])


@needs_compiler
@pytest.mark.parametrize("kind", CELLS)
def test_machine_code_is_not_handed_what_does_not_fit(kind: str) -> None:
    cell, lengths = CELLS[kind](3, 4), torch.tensor([2, 1])
    state = cell.initial_state(2)
    cell.unroll(torch.randn(3, 3), lengths, state, False)
    with pytest.raises(ValueError, match="do not fit"):
        cell.unroll(torch.randn(4, 3), lengths, state, False)
    with pytest.raises(ValueError, match="do not fit"):
        cell.unroll(torch.randn(3, 3), lengths.int(), state, False)
    for wrong in ((1, 4), (2, 3)):
        with pytest.raises(ValueError, match="is expected"):
            cell.unroll(torch.randn(3, 3), lengths, [torch.zeros(wrong) for _ in state], False)


@pytest.mark.skipif(platform.system() != "Linux" or shutil.which("g++") is None, reason="wants Linux and g++")
def test_where_there_is_a_compiler_there_is_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("SEQLAB_COMPILED") != "0":
        assert compiler.library("recurrence") is not None
        assert compiler.library("attention") is not None


@pytest.fixture
def fresh_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No library loaded yet, and an empty home."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    compiler.library.cache_clear()
    yield tmp_path
    compiler.library.cache_clear()


@needs_compiler
def test_without_a_compiler_operators_compute(
    fresh_library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.zeros(1, 4)
    with monkeypatch.context() as patch:
        patch.setenv("SEQLAB_COMPILED", "0")
        assert not compiled_loops.can_run(x)
    compiler.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(compiler.shutil, "which", lambda name: None)
        assert not compiled_loops.can_run(x)
    compiler.library.cache_clear()
    assert caplog.text == ""
    monkeypatch.setattr(compiler, "FLAGS", ("--no-such-flag",))
    assert not compiled_loops.can_run(x)
    assert "no-such-flag" in caplog.text
    assert "SEQLAB_COMPILED=0" in caplog.text


@needs_compiler
def test_a_library_is_made_once_and_again_if_it_is_damaged(
    fresh_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    run = subprocess.run

    def counting(command: list[str], **options: object) -> object:
        commands.append(command)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(compiler.subprocess, "run", counting)
    monkeypatch.setattr(compiler, "FLAGS", ("-O0", *compiler.FLAGS[1:]))  # quick to compile, and another file

    def compiled() -> int:
        return sum("-c" in command for command in commands)

    name = next(name for name in (os.environ.get("CXX", ""), "g++") if shutil.which(name))
    path = compiler.built("recurrence", name, compiler.private_folder())
    assert compiler.built("recurrence", name, path.parent) == path
    assert compiled() == 1
    path.write_bytes(b"not a library")
    assert compiler.library("recurrence") is not None
    assert compiled() == 2
    assert [path] == list(path.parent.iterdir())


@needs_compiler
def test_a_folder_that_others_may_write_to_is_not_trusted(
    fresh_library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.private_folder().chmod(0o777)
    assert compiler.library("recurrence") is None
    assert "not this user's alone" in caplog.text


def test_cudnn_is_not_asked_on_the_cpu() -> None:
    with warnings.catch_warnings():
        assert not has_cudnn(torch.zeros(1))
