"""What is seen of attention is what the equations say; and nothing is seen, or differs, unless somebody watches."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scripted_layers import scripted
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention
from seqlab.layers.backend import backend
from seqlab.layers.pooling import AttentionPooling
from seqlab.layers.watch import Seen, watching

LENGTHS, OTHERS = torch.tensor([3, 0, 2, 1]), torch.tensor([4, 2, 1, 0])


def attended(layer: GlobalAttention | CrossAttention) -> tuple[Callable[[], Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    x, memory = torch.randn(6, 8).double(), torch.randn(7, 6).double()
    return lambda: layer.core(x, LENGTHS, layer.remember(memory, OTHERS)), x, memory


def softmax(scores: list[float]) -> list[float]:
    sum_of = sum(math.exp(score) for score in scores)
    return [math.exp(score) / sum_of for score in scores]


def require_equal(seen: list[Seen], layer: nn.Module, q_THK: Tensor, k_THK: Tensor) -> None:
    """One call of the layer, whose weights are those that the definition says, number by number."""
    ((watched, weights),) = seen
    assert watched is layer
    heads, width = q_THK.shape[1:]
    assert [list(one.shape) for one in weights] == [[heads, 3, 4], [heads, 0, 2], [heads, 2, 1], [heads, 1, 0]]
    q_runs, k_runs = q_THK.split(LENGTHS.tolist()), k_THK.split(OTHERS.tolist())
    for found, q, k in zip(weights, q_runs, k_runs, strict=True):
        for h in range(heads):
            for i in range(len(q)):
                right = softmax([float(sum(q[i, h] * k[j, h])) / math.sqrt(width) for j in range(len(k))])
                assert found[h, i].tolist() == pytest.approx(right, abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_weights_are_those_of_the_equation(path: str) -> None:
    layer = GlobalAttention(8, 6).double()
    run, x, memory = attended(layer)
    with backend(path), watching() as seen:  # type: ignore[arg-type]
        run()
    require_equal(seen, layer, (x @ layer.query.weight.t())[:, None], memory[:, None])

    cross = CrossAttention(8, 4, memory_width=6, kv_heads=2).double()
    run, x, memory = attended(cross)
    with backend(path), watching() as seen:  # type: ignore[arg-type]
        run()
    q, k = cross.query(x).view(6, 4, 2), cross.key_value(memory)[:, :4].view(7, 2, 2)
    require_equal(seen, cross, q, k[:, [0, 0, 1, 1]])  # a key head is read by two


@torch.no_grad()
def test_a_pooling_shows_its_shares() -> None:
    pooling = AttentionPooling(8).double()
    nn.init.normal_(pooling.query)
    x = torch.randn(6, 8).double()
    with watching() as seen:
        pooled = pooling.core(x, LENGTHS)
    for found, rows, mean in zip(seen[0].weights, x.split(LENGTHS.tolist()), pooled, strict=True):
        assert found.flatten().tolist() == pytest.approx(softmax([float(row @ pooling.query) for row in rows]))
        assert torch.allclose(found[0, 0] @ rows, mean)


@pytest.mark.parametrize("make", [lambda: GlobalAttention(8, 6), lambda: CrossAttention(8, 2, 6)])
def test_who_does_not_watch_sees_nothing_and_who_does_changes_nothing(
    make: Callable[[], GlobalAttention | CrossAttention], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = attended(make().double())
    without = run()
    with watching() as seen:
        other = threading.Thread(target=run)  # of a server, which answers meanwhile
        other.start()
        other.join()
        assert seen == []
        assert torch.equal(run(), without)
        with watching() as inner:
            run()
    run()
    assert (len(seen), len(inner)) == (1, 1)
    assert not any(weights.requires_grad for weights in seen[0].weights)
    monkeypatch.delattr("seqlab.layers.watch.weights_of")  # and nothing of it is computed
    for module in ("global_attention", "modules"):
        monkeypatch.delattr(f"seqlab.layers.attention.{module}.weights_of")
    assert torch.equal(run(), without)


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: GlobalAttention(8, 6), lambda: CrossAttention(8, 2, 6)])
def test_a_graph_is_the_same_whoever_watches(make: Callable[[], GlobalAttention | CrossAttention]) -> None:
    layer = make().double()
    run, x, memory = attended(layer)
    known = layer.remember(memory, OTHERS)
    torch._dynamo.reset()
    compiled = torch.compile(layer.core, backend="eager", fullgraph=True)
    script = scripted(layer)
    with watching() as seen:
        for core in (compiled, script.core):
            assert torch.allclose(core(x, LENGTHS, known), run(), atol=1e-12)
    assert len(seen) == 2  # of eager mode
