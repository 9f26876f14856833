"""The rows of the table. Every group measures its sides in turns and gives one row, or several."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmark import training
from benchmark.lengths import equal_lengths, grouped, lengths_of, padding_of, planned, real_lengths
from benchmark.measure import Disagreement, Options, Row, agree, interleaved, peak_bytes, versus
from benchmark.sides import (
    CELLS,
    Pairs,
    Step,
    agreement,
    batch_of,
    language_models,
    recurrent_steps,
    seqlab_step,
    transformer_steps,
)
from benchmark.work import GATES, entering_flops, gemms, peak_rate, recurrent_flops, sequential_floor, transformer_flops
from seqlab import Layout, Ragged
from seqlab.data.plan import make_plan
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.positions import RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell
from seqlab.layers.recurrent.minimal import MinGRUCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack, compile_blocks
from seqlab.models.decoding import Decoding, generate

Group = Callable[[], Iterator[Row]]
Build = Callable[[Tensor], tuple[dict[str, Step], Pairs]]
Batches = Sequence[Tensor]  # the lengths of each

SHAPES = {"mean27": (64, 27), "mean128": (32, 128)}
TEXTS = ("sst", "ewt", "wikitext2")


def groups(options: Options) -> dict[str, Group]:
    """All of them by name, in the order of the table."""
    found: dict[str, Group] = {}
    for cell in CELLS:
        for width in (256, 512):
            for kind in ("random", "bucketed"):
                for shape in SHAPES:
                    name = f"{cell} {width} {kind} {shape}"
                    found[name] = partial(recurrent, name, cell, width, kind, shape, options)
        for text in TEXTS:
            for kind in ("random", "pooled"):
                name = f"{cell} 256 {kind} {text}"
                found[name] = partial(recurrent, name, cell, 256, kind, text, options)
    for width in (256, 512):
        for shape in (*SHAPES, *TEXTS):
            name = f"Transformer {width} {'random' if shape in SHAPES else 'grouped'} {shape}"
            found[name] = partial(transformer, name, width, shape, options)
    found["rows entering products"] = rows_entering
    found["activation memory"] = partial(activation_memory, options)
    found["decoding greedy"] = partial(decoding, options, 1)
    found["decoding beam"] = partial(decoding, options, 4)
    found["training run"] = partial(training.runs, options)
    found["batch plan"] = partial(plan, options)
    found["output layer"] = partial(output_layer, options)
    found["minGRU"] = partial(min_gru, options)
    found["bfloat16"] = partial(bfloat16, options)
    found["compile=true"] = partial(recompilation, options)
    return found


def synthetic(kind: str, shape: str, options: Options) -> Tensor:
    sequences, mean = SHAPES[shape]
    return lengths_of(kind, options.size(sequences, 8), options.size(mean, mean // 8))


def recurrent(name: str, cell: str, width: int, kind: str, shape: str, options: Options) -> Iterator[Row]:
    if synthetic_batch := shape in SHAPES:
        batches: Batches = [synthetic(kind, shape, options)]
    else:
        lengths = real_lengths(shape, options.data)
        batches = planned(lengths, options.size(4096, 512 + int(lengths.max())), 50 if kind == "pooled" else 1, 2)
    # The targets are told for mean lengths of 27 and 128; of a text, the nearer one's by ratio.
    long = torch.cat(list(batches)).double().mean() > (options.size(27, 3) * options.size(128, 16)) ** 0.5
    targets = {
        "PackedSequence": 3.0 if cell == "GRU" or long else 1.5,
        "padded": 2.0 if kind == "random" else 1.2 if cell == "GRU" else 1.0,
    }
    width, total = options.size(width, width // 8), int(batches[0].sum())
    yield from train_step(
        name, partial(recurrent_steps, cell, width), partial(recurrent_flops, cell, width),
        {"seqlab": batches, **dict.fromkeys(targets, batches)}, targets, options,
        shapes=[(total, width, GATES[cell] * width)] if synthetic_batch else [],
        utilisation=0.65 if name.startswith("LSTM 512 bucketed") else None,
        efficiency=0.90 if kind == "bucketed" else None,
        floor=partial(sequential_floor, cell, width, batches[0]),
    )  # fmt: skip


def transformer(name: str, width: int, shape: str, options: Options) -> Iterator[Row]:
    """On one random batch; of a text, each side on batches of its own making, of 2048 real tokens on average."""
    count, width = options.size(4 if width == 256 else 2, 1), options.size(width, width // 4)
    measured = partial(train_step, name, partial(transformer_steps, width), partial(transformer_flops, width))
    if shape in SHAPES:
        batches: Batches = [synthetic("random", shape, options)]
        total, targets = int(batches[0].sum()), {"Hugging Face": 5.0 if shape == "mean128" else 2.7}
        shapes = [(total, width, 3 * width), (total, width, 4 * width), (total, 4 * width, width)]
        given = {"seqlab": batches, "Hugging Face": batches}
        yield from measured(given, targets, options, shapes=shapes, utilisation=0.75, efficiency=0.95)
    else:
        lengths, tokens, peer = real_lengths(shape, options.data), options.size(2048, 1024), "Hugging Face, grouped"
        given = {"seqlab": planned(lengths, tokens, 50, count), peer: grouped(lengths, tokens, count)}
        yield from measured(given, {peer: 1.1}, options)


def train_step(
    name: str,
    build: Build,
    flops: Callable[[Tensor], float],
    batches: dict[str, Batches],
    targets: dict[str, float],
    options: Options,
    shapes: Sequence[tuple[int, int, int]] = (),
    utilisation: float | None = None,
    efficiency: float | None = None,
    floor: Callable[[float], float] | None = None,
) -> Iterator[Row]:
    """Rows for a layer against its peers, against equal lengths and against the peak of the products it is made of.

    `batches`: contestant, which is "side" or "side, remark", to what it does in a turn; `targets`: peer to how many
    times faster; `shapes` of the the products it is made of; `floor(peak)`: seconds it cannot be faster than.
    """
    peer = [*batches][-1]
    equal = [f"{side}, equal lengths" for side in ("seqlab", peer)] if efficiency else []
    batches = {**batches, **{side: [equal_lengths(batches["seqlab"][0])] for side in equal}}
    runs: dict[str, Callable[[], object]] = {}
    apart: dict[str, float] = {}
    for contestant, given in batches.items():
        side = contestant.partition(",")[0]
        built = [build(lengths) for lengths in given]
        if side != "seqlab":
            steps, pairs = build(given[0][::4])  # enough to agree on, from the longest to the shortest
            apart[contestant] = agreement(steps["seqlab"], steps[side], pairs)
        runs[contestant] = lambda steps=[steps[side] for steps, _ in built]: [step() for step in steps]  # type: ignore[misc]
    times = interleaved({**runs, **gemms(shapes)}, options)
    tokens = {side: float(sum(int(lengths.sum()) for lengths in given)) for side, given in batches.items()}
    work = {side: sum(map(flops, given)) / 1e9 for side, given in batches.items()}
    for peer, target in targets.items():
        padding = padding_of(batches[peer])
        yield versus(times, "seqlab", peer, tokens, name, target=target, apart=apart[peer], padding=padding)
    if equal:
        rival = max(equal, key=lambda side: work[side] / statistics.median(times[side]))
        row = versus(times, "seqlab", rival, work, name, target=efficiency, unit="GFLOP/s", apart=apart[equal[1]])
        yield replace(row, against=f"ragged efficiency: {rival}")
    if shapes:
        peak = peak_rate(times)
        times["GEMM peak"] = [work["seqlab"] * 1e9 / peak] * len(times["seqlab"])  # as if all of it ran at the peak
        row = versus(times, "seqlab", "GEMM peak", {**work, "GEMM peak": work["seqlab"]}, name, unit="GFLOP/s")
        share = f"sequential floor: {floor(peak) / statistics.median(times['seqlab']):.0%} of a step" if floor else ""
        gemm_times = {side: taken for side, taken in times.items() if side.startswith("GEMM ")}
        yield replace(row, against="UFU: GEMM peak", target=utilisation, note=share, samples=row.samples | gemm_times)


def _layer_steps(layer: str, width: int, lengths: Tensor) -> dict[str, Step]:
    return (transformer_steps(width, lengths) if layer == "Transformer" else recurrent_steps(layer, width, lengths))[0]


def rows_entering() -> Iterator[Row]:
    """Floating-point operations that enter products in a forward pass, over the useful ones: 1, or more if padded."""
    lengths = lengths_of("random", 8, 16)
    mistaken = torch.cat([lengths[:-1], lengths[:1]])  # one sequence padded on purpose
    for layer in (*CELLS, "Transformer"):
        useful = transformer_flops(128, lengths) if layer == "Transformer" else recurrent_flops(layer, 128, lengths)

        def share(given: Tensor, side: int, layer: str = layer, useful: float = useful) -> float:
            step = [*_layer_steps(layer, 128, given).values()][side]
            return 3 * entering_flops(partial(step.forward, step.x)) / useful

        ours, theirs, shown = share(lengths, 0), share(lengths, -1), share(mistaken, 0)
        if not shown > ours:
            raise Disagreement(f"{layer}: the counter does not see a sequence that was padded on purpose")
        yield Row(
            f"{layer}: FLOPs entering products / useful", "exactly 1", [abs(ours - 1)], 1e-9, False, ours, theirs, "",
            padding_of([lengths]), note=f"{shown:.2f} where one sequence is padded on purpose",
        )  # fmt: skip


def _steps_for_memory(layer: str, side: str, width: int, *batches: Tensor) -> list[Step]:
    return [_layer_steps(layer, width, lengths)[side] for lengths in (torch.tensor([8]), *batches)]


def activation_memory(options: Options) -> Iterator[Row]:
    """How the peak of a train step grows when one sequence gets 8 times as long and the tokens stay as many."""
    equal = torch.full([options.size(64, 16)], 64)
    long = torch.cat([torch.tensor([8 * 64]), equal[8:]])
    for layer, peers in (("LSTM", ("PackedSequence", "padded")), ("Transformer", ("Hugging Face",))):
        what = f"{layer} 256: growth of peak memory, longest 64 to 512"
        peaks = {side: peak_bytes(_steps_for_memory, layer, side, 256, equal, long) for side in ("seqlab", *peers)}
        growth, padding = {side: after / before for side, (before, after) in peaks.items()}, padding_of([long])
        for peer in peers:
            ours, theirs = (peaks[side][1] / 1e6 for side in ("seqlab", peer))
            row = Row(what, peer, [growth["seqlab"]], 1.1, False, ours, theirs, "MB", padding)
            yield replace(row, note=f"the peer's grows {growth[peer]:.2f}x")


def decoding(options: Options, width: int) -> Iterator[Row]:
    """A batch of prompts of mixed lengths, each continued by the same number of tokens, with caches."""
    vocabulary, new = options.size(8000, 200), options.size(64, 8)
    prompts = lengths_of("random", options.size(32, 4), options.size(32, 6))
    ours, theirs, _ = language_models(vocabulary, options.size(256, 64), 4, int(prompts.max()) + new, 0.0)
    theirs.eval()
    tokens = torch.randint(vocabulary, (int(prompts.sum()),), generator=torch.Generator().manual_seed(2))
    batch = Ragged(tokens, Layout(prompts))
    left = pad_sequence([row.flip(0) for row in batch.to_list()], batch_first=True).flip(1)  # as its decoding wants it
    mask = (torch.arange(left.shape[1]) >= left.shape[1] - prompts.unsqueeze(1)).long()
    asked = Decoding(max_tokens=new, width=width)
    length = {"max_new_tokens": new, "min_new_tokens": new, "num_beams": width}
    sides = {
        "seqlab": lambda: torch.stack([best.tokens for best, *_ in generate(ours, batch, -1, asked)]),
        "Hugging Face": lambda: theirs.generate(left, attention_mask=mask, do_sample=False, pad_token_id=0, **length),
    }
    same = sides["seqlab"]() == sides["Hugging Face"]()[:, left.shape[1] :]
    share = same.float().mean().item()
    if share < 0.99:
        raise Disagreement(f"only {share:.1%} of the decoded tokens are the same")
    what = "greedy decoding" if width == 1 else f"beam search, {width} hypotheses"
    what = f"{what}, {len(prompts)} prompts, {new} new tokens"
    written = dict.fromkeys(sides, float(len(prompts) * new))
    row = versus(interleaved(sides, options), "seqlab", "Hugging Face", written, what, target=2.0)
    yield replace(row, padding=padding_of([prompts]), note=f"{share:.1%} of the tokens are the same")


def recompilation(options: Options) -> Iterator[Row]:
    """Graphs that training takes on batches of ever new lengths, where one more is an error after the second batch."""
    graphs: list[object] = []

    def counting(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return graph

    width, number = options.size(256, 32), options.size(50, 5)
    stack = TransformerStack(width, 4, 2, 4 * width, True, RotaryPositions(width, width // 4))
    compile_blocks(stack, counting)
    generator = torch.Generator().manual_seed(0)
    for batch in range(number):
        sequences = int(torch.randint(2, 40, (), generator=generator))
        layout = Layout(torch.randint(0, 60, (sequences,), generator=generator))
        with torch._dynamo.config.patch(error_on_recompile=batch > 1):
            stack(Ragged(torch.randn(layout.total, width), layout)).values.sum().backward()
    yield Row(
        f"compile=true, {number} batches of new lengths",
        "graphs",
        [float(len(graphs))],
        2.0,
        False,
        len(graphs),
        unit="",
    )


def _many_lengths(number: int) -> Any:
    return np.random.default_rng(0).lognormal(3.0, 0.8, number).astype(np.int64).clip(1, 2000)


def _plans_for_memory(*numbers: int) -> list[Callable[[], object]]:
    return [lambda number=number: make_plan(_many_lengths(number), 16384, 50, 0, 0) for number in numbers]  # type: ignore[misc]


def plan(options: Options) -> Iterator[Row]:
    number = options.size(10_000_000, 100_000)
    planned = {"seqlab": partial(make_plan, _many_lengths(number), 16384, 50, 0, 0)}
    times = interleaved(planned, replace(options, rounds=options.size(3, 1)))
    what, seconds = f"batch plan of {number:,} lengths", statistics.median(times["seqlab"])
    yield Row(what, "seconds", times["seqlab"], 5.0, False, ours=seconds, unit="s", samples=times)
    peak = peak_bytes(_plans_for_memory, 1000, number)[0] / 1e9
    yield Row(what, "peak memory, lengths included", [peak], 1.0, False, ours=peak, unit="GB")


def _head(kind: str, width: int, classes: int, rows: int) -> Callable[[], dict[str, Tensor]]:
    torch.manual_seed(0)
    head = SoftmaxHead(width, classes)
    hidden, targets = torch.randn(rows, width, requires_grad=True), torch.randint(classes, (rows,))

    def step() -> dict[str, Tensor]:
        head.zero_grad(set_to_none=True)
        hidden.grad = None
        if kind == "seqlab":
            loss = head.loss(hidden, targets)
        else:
            loss = F.cross_entropy(F.linear(hidden, head.weight, head.bias), targets, reduction="sum")
        loss.backward()
        return {"loss": loss.detach(), "hidden": hidden.grad, "weight": head.weight.grad}  # type: ignore[dict-item]

    return step


def _head_for_memory(kind: str, width: int, classes: int, rows: int) -> tuple[Any, Any]:
    return _head(kind, width, classes, 8), _head(kind, width, classes, rows)


def output_layer(options: Options) -> Iterator[Row]:
    size = options.size(256, 32), options.size(32_000, 1000), options.size(2048, 128)
    peer = "cross_entropy on whole scores"
    sides = {kind: _head(kind, *size) for kind in ("seqlab", peer)}
    apart = agree(*(side() for side in sides.values()))
    what, tokens = f"output layer and loss, {size[2]:,} rows, V {size[1]:,}", dict.fromkeys(sides, float(size[2]))
    yield versus(interleaved(sides, options), "seqlab", peer, tokens, what, apart=apart)
    ours, theirs = (peak_bytes(_head_for_memory, kind, *size)[0] / 1e6 for kind in sides)
    yield Row(f"{what}: peak memory", peer, [theirs / ours], ours=ours, theirs=theirs, unit="MB")


def min_gru(options: Options) -> Iterator[Row]:
    """A recurrence that a scan computes, against the GRU it is made from (Feng et al. 2024)."""
    width = options.size(256, 32)
    for shape in SHAPES:
        lengths = synthetic("random", shape, options)
        stacks = {"minGRU": RecurrentStack(width, width, MinGRUCell), "GRU": RecurrentStack(width, width, GRUCell)}
        times = interleaved({k: seqlab_step(stack, *batch_of(width, lengths)) for k, stack in stacks.items()}, options)
        tokens = dict.fromkeys(stacks, float(lengths.sum()))
        yield versus(times, "minGRU", "GRU", tokens, f"minGRU {width} random {shape}", padding=padding_of([lengths]))


def bfloat16(options: Options) -> Iterator[Row]:
    """The same layers under autocast."""
    lengths = lengths_of("bucketed", options.size(32, 8), options.size(128, 16))
    for layer, width in (("Transformer", options.size(256, 64)), ("LSTM", options.size(512, 64))):
        step = _layer_steps(layer, width, lengths)["seqlab"]
        low = replace(step, forward=torch.autocast("cpu", torch.bfloat16)(step.forward))
        apart = agree(*({"output": side.forward(side.x).float()} for side in (low, step)), tolerance=0.1)
        times, tokens = interleaved({"bfloat16": low, "float32": step}, options), float(lengths.sum())
        what = f"{layer} {width}, bfloat16 autocast"
        yield versus(times, "bfloat16", "float32", dict.fromkeys(times, tokens), what, apart=apart)
