"""Under bfloat16 autocast a layer computes what it computes in float32, to within bfloat16's rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from my_module import MyCell
from seqlab.layers.backend import backend
from seqlab.layers.embedding import Embedding
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.positions import LearnedPositions, NoPositions, Positions, RotaryPositions, SinusoidalPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder
from seqlab.models.seq2seq import Seq2Seq
from seqlab.ragged import Layout, Ragged

WIDTH = 16
LENGTHS = [5, 0, 9, 2, 2, 1]
CELLS = [LSTMCell, GRUCell, TanhCell, MyCell]
STACKS: dict[str, Callable[[], SequenceLayer]] = {
    **{cell.__name__: lambda cell=cell: RecurrentStack(WIDTH, 8, cell, layers=2, bidirectional=True) for cell in CELLS},
    "LSTMCell, residual": lambda: RecurrentStack(WIDTH, WIDTH, LSTMCell, layers=2, residual=True),
    "causal": lambda: TransformerStack(WIDTH, 2, 2, 32, True, RotaryPositions(WIDTH, 8)),
    "bidirectional": lambda: TransformerStack(WIDTH, 2, 2, 32, False, NoPositions(WIDTH, 8)),
}


def forward_and_backward(stack: SequenceLayer, path: str, autocast: bool) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(sum(LENGTHS), WIDTH, generator=generator).requires_grad_()
    with backend(path), torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # type: ignore[arg-type]
        y_TD = stack(Ragged(x_TD, Layout(LENGTHS))).values
    total = (y_TD * torch.randn(y_TD.shape, generator=generator)).sum()
    return y_TD, list(torch.autograd.grad(total, [x_TD, *stack.parameters()]))


def apart(narrow: Tensor, exact: Tensor) -> float:
    """In units of the exact tensor's norm; bfloat16 rounds to 8 bits, 0.004."""
    return float((narrow - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_stays_within_rounding(name: str, path: str) -> None:
    torch.manual_seed(0)
    stack = STACKS[name]()
    if isinstance(stack, TransformerStack):  # a fresh one adds little to its input, which passes unrounded
        for parameter in stack.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=WIDTH**-0.5)
    exact, exact_gradients = forward_and_backward(stack, path, autocast=False)
    narrow, gradients = forward_and_backward(stack, path, autocast=True)
    assert 1e-5 < apart(narrow, exact) < 0.02
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert apart(gradient, expected) < 0.03
    assert max(apart(a, b) for a, b in zip(gradients, exact_gradients, strict=True)) > 1e-4


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_a_decoder_stays_within_rounding_at_once_and_step_by_step(kind: str, path: str) -> None:
    torch.manual_seed(0)
    encoder: Encoder = RecurrentEncoder(9, LSTMCell, width=WIDTH, causal=False)
    if kind == "transformer":
        encoder = TransformerEncoder(9, RotaryPositions, width=WIDTH, layers=2, heads=2, causal=False)
    model = Seq2Seq(encoder, 9, 9).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=WIDTH**-0.5)
    source, prefix = (Ragged(torch.randint(9, (18,)), Layout(torch.tensor(n))) for n in ([4, 0, 14], [6, 6, 6]))
    exact = model.encode(source, prefix)[0]
    with backend(path), torch.autocast("cpu", torch.bfloat16):  # type: ignore[arg-type]
        narrow = model.encode(source, prefix)[0]
        loss = model.head.loss(narrow.values, prefix.values)
        with torch.no_grad():
            state, steps = model.remember(source), []
            for tokens_B in prefix.values.view(3, 6).t():
                hidden_BD, state = model.step(tokens_B, state)
                steps.append(hidden_BD)
    assert 1e-5 < apart(narrow.values.float(), exact.values) < 0.02
    assert apart(torch.stack(steps, 1).flatten(0, 1).float(), exact.values) < 0.02
    assert loss.dtype == torch.float32
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_state_of_a_recurrence_stays_float32(cell: type[nn.Module], path: str) -> None:
    stack = RecurrentStack(WIDTH, 8, cell, layers=2)
    lengths = torch.tensor(LENGTHS)
    with backend(path), torch.autocast("cpu", torch.bfloat16):  # type: ignore[arg-type]
        _, state = stack.core(torch.randn(sum(LENGTHS), WIDTH), lengths)
        again, after = stack.core(torch.randn(sum(LENGTHS), WIDTH), lengths, state)
        output, stepped = stack.step(torch.randn(len(LENGTHS), WIDTH), after)
    assert {tensor.dtype for tensor in (*state, *after, *stepped)} == {torch.float32}
    assert again.isfinite().all()
    assert output.isfinite().all()


@pytest.mark.parametrize("scheme", [NoPositions, LearnedPositions, SinusoidalPositions, RotaryPositions])
def test_embeddings_and_norms_stay_float32(scheme: type[Positions]) -> None:
    layer = Embedding(7, WIDTH, scheme(WIDTH, 8))
    stack = TransformerStack(WIDTH, 2, 1, 32, True, scheme(WIDTH, 8))
    tokens, lengths = torch.randint(7, (sum(LENGTHS),)), torch.tensor(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        x_TD = layer.core(tokens, lengths)
        y_TD, _ = stack.core(x_TD, lengths)
    assert torch.equal(x_TD, layer.core(tokens, lengths))
    assert y_TD.dtype == torch.float32
