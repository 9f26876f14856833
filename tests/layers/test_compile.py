"""`compile=true`: one graph for batches of any lengths, with all products in it, that computes what eager mode does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.work import product_flops
from scripted_layers import scripted
from seqlab import bundle, experiment
from seqlab.errors import InputError
from seqlab.layers import transformer
from seqlab.layers.attention import attend as attend_module
from seqlab.layers.backend import backend
from seqlab.layers.positions import NoPositions, RelativePositions, RotaryPositions
from seqlab.layers.recurrent.cells import LSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack, compile_blocks
from seqlab.models.encoders import TransformerEncoder
from seqlab.ragged import Ragged

pytestmark = [  # what torch does inside its compiler, and hides from people
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]
OPTIONS: dict[str, tuple[type[NoPositions], dict[str, Any]]] = {
    "plainest": (RotaryPositions, {}),
    "relative, window, one key head, gated, rms": (
        RelativePositions,
        {"window": 3, "kv_heads": 1, "activation": "swiglu", "norm": "rms"},
    ),
    "checkpointed, no positions": (NoPositions, {"checkpointing": True}),
}


class Products(TorchDispatchMode):
    """FLOPs of matrix products, in eager mode."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.flops += product_flops(func, args)
        return func(*args, **(kwargs or {}))


class Counting(torch.fx.Interpreter):
    """FLOPs of matrix products, in graphs as they run."""

    flops = 0

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = args[-2:]
            Counting.flops += 2 * int(left.shape[0]) * int(left.shape[1]) * int(right.shape[1])
        return super().call_function(target, args, kwargs)


class Graphs:
    """A compiler that counts how often it is asked, and runs the graphs as they are; none may look at a length."""

    def __init__(self) -> None:
        self.asked = 0
        self.looked_at: list[Any] = []
        self.aot = aot_autograd(fw_compiler=self.counting, bw_compiler=self.counting)

    def counting(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.looked_at += graph.graph.find_nodes(op="call_function", target=torch.ops.aten._local_scalar_dense.default)
        return make_boxed_func(Counting(graph).run)

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.asked += 1
        return self.aot(graph, inputs)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    transformer._compiler.cache_clear()
    yield
    torch._dynamo.reset()


def pair(name: str, width: int = 16) -> tuple[TransformerStack, TransformerStack]:
    """A stack to compile, and the same to compare it with."""
    torch.manual_seed(0)
    scheme, options = OPTIONS[name]
    stack = TransformerStack(width, 4, 3, 2 * width, True, scheme(width, width // 4), **options)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.2)
    return stack, copy.deepcopy(stack)


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        sequences = (3, 1, 0, 2)[i] if i < 4 else int(torch.randint(1, 12, (), generator=generator))
        lengths = torch.randint(0, 15, (sequences,), generator=generator)
        lengths = torch.ones_like(lengths) if i == 1 else lengths  # one token
        yield torch.randn(int(lengths.sum()), 16, generator=generator), lengths


def gradients(stack: TransformerStack, x: Tensor, lengths: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    y = x.clone().requires_grad_()
    out = stack.core(y, lengths, None)[0]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad((out * weights).sum() + 0 * y.sum(), [y, *stack.parameters()])]


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))


def train_and_evaluate(stack: TransformerStack, twin: TransformerStack, x: Tensor, lengths: Tensor) -> None:
    stack.train()
    assert close(gradients(stack, x, lengths), gradients(twin, x, lengths))
    stack.eval()
    with torch.no_grad():
        assert close([stack.core(x, lengths, None)[0]], [twin.core(x, lengths, None)[0]])


@pytest.mark.parametrize("name", OPTIONS)
def test_batches_of_any_lengths_take_one_graph_for_training_and_one_for_evaluation(name: str) -> None:
    stack, twin = pair(name)
    graphs = Graphs()
    assert compile_blocks(stack, graphs) == 3
    for i, (x, lengths) in enumerate(batches(50)):
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            train_and_evaluate(stack, twin, x, lengths)
    assert graphs.asked == 2
    assert graphs.looked_at == []


@pytest.mark.parametrize("name", OPTIONS)
def test_nine_tenths_of_the_products_are_compiled(name: str) -> None:
    stack, twin = pair(name)
    compile_blocks(stack, Graphs())
    x, lengths = torch.randn(12, 16), torch.tensor([5, 0, 7])
    with Products() as eager:
        gradients(twin, x, lengths)
    Counting.flops = 0
    gradients(stack, x, lengths)
    assert eager.flops > 0
    assert Counting.flops >= 0.9 * eager.flops


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_blocks_of_a_decoder_take_as_many_graphs(checkpointing: bool) -> None:
    torch.manual_seed(0)
    stack = TransformerStack(
        16, 4, 3, 32, True, RotaryPositions(16, 4), memory_width=8, kv_heads=2, checkpointing=checkpointing
    )
    twin = copy.deepcopy(stack)
    graphs = Graphs()
    compile_blocks(stack, graphs)
    sources = torch.Generator().manual_seed(2)
    for i, (x, lengths) in enumerate(batches(30)):
        others = torch.randint(0, 9, lengths.shape, generator=sources)
        others = torch.ones_like(others) if i == 4 else others
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            results: list[list[Tensor]] = []
            for each in (stack, twin):
                below = [x.clone().requires_grad_(), torch.ones(int(others.sum()), 8, requires_grad=True)]
                y = each.train().core(below[0], lengths, None, each.remember(below[1], others))[0]
                total, wanted = y.square().sum() + 0 * sum(part.sum() for part in below), [*below, *each.parameters()]
                results.append([y, *torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)])
                each.eval()
                with torch.no_grad():
                    results[-1].append(each.core(x, lengths, None, each.remember(below[1], others))[0])
        assert close(*results)
    assert graphs.asked == 2
    assert graphs.looked_at == []


def test_a_window_both_ways_compiles() -> None:
    torch.manual_seed(0)
    stack = TransformerStack(16, 4, 2, 32, False, NoPositions(16, 4), window=2)
    twin = copy.deepcopy(stack)
    compile_blocks(stack, "aot_eager")
    for lengths in ([4, 0, 5], [1, 7]):
        x = torch.randn(sum(lengths), 16)
        assert close(gradients(stack, x, torch.tensor(lengths)), gradients(twin, x, torch.tensor(lengths)))


def test_dropout_works_and_differs_from_batch_to_batch() -> None:
    torch.manual_seed(0)
    stack = TransformerStack(16, 4, 1, 32, True, NoPositions(16, 4), 0.3, attention_dropout=0.3)
    compile_blocks(stack, "aot_eager")
    x, lengths = torch.randn(9, 16), torch.tensor([4, 5])
    torch.manual_seed(1)
    first, second = (stack.core(x, lengths, None)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, stack.core(x, lengths, None)[0])


@pytest.mark.parametrize("kernel", ["explicit", "efficient"])
def test_the_kernel_behind_the_operator_is_the_chosen_one(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`efficient` keeps no sums; on this machine it is there to be asked for, and not to run."""
    stack, twin = pair("plainest")
    compile_blocks(stack, "aot_eager")
    monkeypatch.setattr(attend_module, "choose", lambda *_: kernel)
    x, lengths = torch.randn(9, 16), torch.tensor([4, 5])
    if kernel == "explicit":
        assert close(gradients(stack, x, lengths), gradients(twin, x, lengths))
    else:
        with pytest.raises(NotImplementedError, match="_efficient_attention_forward"):
            stack.core(x, lengths, None)


def test_steps_and_the_plain_path_stay_as_they_are() -> None:
    stack, twin = pair("plainest")
    graphs = Graphs()
    compile_blocks(stack, graphs)
    x, lengths = torch.randn(9, 16, requires_grad=True), torch.tensor([4, 5])
    with backend("plain"):
        assert close(gradients(stack, x.detach(), lengths), gradients(twin, x.detach(), lengths))
    assert graphs.asked == 0
    _, state = stack.core(x, lengths, None)
    again, _ = stack.core(x, lengths, state)
    expected, _ = twin.core(x, lengths, twin.core(x, lengths, None)[1])
    assert close([again], [expected])
    assert graphs.asked == 1


def test_names_copies_and_scripts_are_those_of_the_model_that_was_not_compiled() -> None:
    stack, twin = pair("plainest")
    compile_blocks(stack, "aot_eager")
    stack.core(torch.randn(9, 16), torch.tensor([4, 5]), None)
    assert bundle.distinct_tensors(stack).keys() == bundle.distinct_tensors(twin).keys()
    x, lengths = torch.randn(3, 16), torch.tensor([3])
    assert close([copy.deepcopy(stack).core(x, lengths, None)[0]], [twin.core(x, lengths, None)[0]])
    script = scripted(stack)
    assert close([script.core(x, lengths, None)[0]], [twin.core(x, lengths, None)[0]])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("biased", [False, True])
def test_the_operators_keep_what_the_compiler_is_told(biased: bool, dropout: float) -> None:
    """Shapes and strides, also of what comes in as a view; and the gradient."""
    qkv = torch.randn(9, 3, 2, 4, requires_grad=True)
    bias = torch.randn(7, 2, requires_grad=True).t() if biased else None
    seed, lengths = torch.tensor([3]) if dropout else None, torch.tensor([4, 0, 5])
    asked = (bias, seed, lengths, lengths, None, True, 3, dropout)
    torch.library.opcheck(attend_module._opaque_attend, (*qkv.unbind(1), *asked))
    out, log_sums = attend_module._opaque_attend(*qkv.unbind(1), *asked)
    kept = [x.detach() for x in (torch.randn_like(out), *qkv.unbind(1))]
    asked = (None if bias is None else bias.detach(), out.detach(), log_sums.detach(), *asked[1:])
    torch.library.opcheck(attend_module._opaque_backward, (*kept, *asked))


def test_inductor_computes_the_same() -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(11, RotaryPositions, width=16, layers=2, heads=4, dropout=0.0)
    twin = copy.deepcopy(encoder)
    experiment.compile_model(encoder, torch.device("cpu"))
    for i, lengths in enumerate(([3, 5, 0, 5], [7], [1, 2], [4, 4, 4])):
        tokens = Ragged.from_list([torch.randint(11, (length,)) for length in lengths])
        results = []
        for each in (encoder, twin):
            with torch._dynamo.config.patch(error_on_recompile=i > 0):
                out = each(tokens)[0].values
            results.append([out, *torch.autograd.grad(out.square().sum(), list(each.parameters()))])
        assert close(*results)


def test_a_model_without_blocks_says_that_the_choice_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    experiment.compile_model(RecurrentStack(4, 4, LSTMCell), torch.device("cpu"))
    assert "compile=true is ignored" in caplog.text


def test_a_machine_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nand so on")

    stack, _ = pair("plainest")
    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(InputError, match=r"compile=true.*No working C\+\+ compiler found\)"):
        experiment.compile_model(stack, torch.device("cpu"))
