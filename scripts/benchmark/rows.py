"""The rows of the table. Every group measures its sides in turns and gives one row, or several."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark import training
from benchmark.lengths import equal_lengths, grouped, lengths_of, padding_of, planned, real_lengths
from benchmark.measure import (
    Disagreement,
    Options,
    Row,
    Times,
    agree,
    interleaved,
    peak_bytes,
    versus,
)
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
from benchmark.work import (
    GATES,
    entering_flops,
    gemms,
    peak_rate,
    recurrent_flops,
    sequential_floor,
    transformer_flops,
)
from seqlab import Layout, Ragged
from seqlab.data.plan import make_plan
from seqlab.layers.backend import backend
from seqlab.layers.cells import GRUCell
from seqlab.layers.heads import SoftmaxHead
from seqlab.layers.rnn import RecurrentStack
from seqlab.models.decoding import generate

Group = Callable[[], Iterator[Row]]
Build = Callable[[Tensor], tuple[dict[str, Step], Pairs]]

SHAPES = {"mean27": (64, 27), "mean128": (32, 128)}
REAL = ("sst", "ewt", "wikitext2")


def groups(options: Options) -> dict[str, Group]:
    """All of them by name, in the order of the table."""
    found: dict[str, Group] = {}
    for cell in CELLS:
        for width in (256, 512):
            for kind in ("random", "bucketed"):
                for shape in SHAPES:
                    name = f"{cell} {width} {kind} {shape}"
                    found[name] = partial(recurrent, name, cell, width, kind, shape, options)
        for text in REAL:
            for kind in ("random", "pooled"):
                name = f"{cell} 256 {kind} {text}"
                found[name] = partial(recurrent_on_text, name, cell, 256, kind, text, options)
    for width in (256, 512):
        for shape in SHAPES:
            name = f"Transformer {width} random {shape}"
            found[name] = partial(transformer, name, width, shape, options)
        for text in REAL:
            name = f"Transformer {width} grouped {text}"
            found[name] = partial(transformer_on_text, name, width, text, options)
    found["rows entering products"] = partial(rows_entering, options)
    found["activation memory"] = partial(activation_memory, options)
    found["decoding greedy"] = partial(greedy, options)
    found["decoding beam"] = partial(not_built, "beam search", "generate(num_beams=4)", 2.0)
    found["training run"] = partial(training.runs, options)
    found["batch plan"] = partial(plan, options)
    found["output layer"] = partial(output_layer, options)
    found["minGRU"] = partial(min_gru, options)
    found["bfloat16"] = partial(bfloat16, options)
    found["compile=true"] = partial(not_built, "compile=true, 50 batches of new lengths", "graphs", 2.0, at_least=False)
    return found


def not_built(what: str, against: str, target: float, at_least: bool = True) -> Iterator[Row]:
    """A place in the table for what seqlab does not have yet."""
    yield Row(what, against, target=target, at_least=at_least, note="not built yet")


# ------------------------------------------------------------------------------------------------ train steps


def contestants(
    build: Build, sides: Mapping[str, str], batches: Mapping[str, Sequence[Tensor]]
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What takes turns, and how far each peer is apart from seqlab on its first batch.

    `sides`: contestant to the side it is; `batches`: contestant to what it does in a turn.
    """
    runs: dict[str, Callable[[], object]] = {}
    apart: dict[str, float] = {}
    for name, side in sides.items():
        built = [build(lengths) for lengths in batches[name]]
        if side != "seqlab":
            steps, pairs = built[0]
            apart[name] = agreement(steps["seqlab"], steps[side], pairs)
        chosen = [steps[side] for steps, _ in built]
        runs[name] = lambda chosen=chosen: [step() for step in chosen]  # type: ignore[misc]
    return runs, apart


def tokens_of(batches: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    return {name: float(sum(int(lengths.sum()) for lengths in given)) for name, given in batches.items()}


def _layer(
    name: str,
    build: Build,
    flops: Callable[[Tensor], float],
    shapes: list[tuple[int, int, int]],
    lengths: Tensor,
    targets: dict[str, float],
    options: Options,
    efficiency: float | None,
) -> tuple[list[Row], Times]:
    """A layer against its peers on one batch; with `efficiency`, also against batches of equal lengths."""
    sides, equal = {name: name for name in ("seqlab", *targets)}, ("seqlab, equal lengths", "padded, equal lengths")
    batches = {name: [lengths] for name in sides}
    if efficiency is not None:
        sides |= {name: name.partition(",")[0] for name in equal}
        batches |= {name: [equal_lengths(lengths)] for name in equal}
    runs, apart = contestants(build, sides, batches)
    times = interleaved({**runs, **gemms(shapes)}, options)
    tokens, padding = tokens_of(batches), padding_of([lengths])
    rows = [
        versus(times, "seqlab", peer, tokens, name, peer, target=target, apart=apart[peer], padding=padding)
        for peer, target in targets.items()
    ]
    if efficiency is not None:
        work = {side: flops(batches[side][0]) / 1e9 for side in sides}
        rival = max(equal, key=lambda side: work[side] / statistics.median(times[side]))
        against = f"{rival}: ragged efficiency"
        rows.append(
            versus(times, "seqlab", rival, work, name, against, target=efficiency, unit="GFLOP/s", padding=padding)
        )
    return rows, times


def utilisation(name: str, times: Times, flops: float, target: float | None, note: str = "") -> Row:
    """Useful floating-point operations per second, as a share of the best product's."""
    peak = peak_rate(times)
    return Row(
        name,
        "GEMM peak: UFU",
        values=[flops / taken / peak for taken in times["seqlab"]],
        target=target,
        ours=flops / statistics.median(times["seqlab"]) / 1e9,
        theirs=peak / 1e9,
        unit="GFLOP/s",
        note=note,
        samples={side: taken for side, taken in times.items() if side == "seqlab" or side.startswith("GEMM")},
    )


def _long(lengths: Tensor) -> bool:
    """Whether the targets for mean 128 hold, rather than those for mean 27: the nearer one, by ratio."""
    return lengths.double().mean().item() > (27 * 128) ** 0.5


def recurrent_targets(cell: str, bucketed: bool, long: bool) -> dict[str, float]:
    packed = 3.0 if cell == "GRU" or long else 1.5
    return {"PackedSequence": packed, "padded": (1.2 if cell == "GRU" else 1.0) if bucketed else 2.0}


def recurrent(name: str, cell: str, width: int, kind: str, shape: str, options: Options) -> Iterator[Row]:
    sequences, mean = SHAPES[shape]
    lengths = lengths_of(kind, options.size(sequences, 8), options.size(mean, mean // 8))
    width, bucketed, total = options.size(width, width // 8), kind == "bucketed", int(lengths.sum())
    shapes = [(total, width, GATES[cell] * width)]
    targets = recurrent_targets(cell, bucketed, shape == "mean128")
    efficiency = 0.90 if bucketed else None
    flops = partial(recurrent_flops, cell, width)
    rows, times = _layer(
        name, partial(recurrent_steps, cell, width), flops, shapes, lengths, targets, options, efficiency
    )
    yield from rows
    floor = sequential_floor(cell, width, lengths, peak_rate(times)) / statistics.median(times["seqlab"])
    target = 0.65 if name.startswith("LSTM 512 bucketed") else None
    yield utilisation(name, times, flops(lengths), target, f"sequential floor: {floor:.0%} of the step")


def transformer(name: str, width: int, shape: str, options: Options) -> Iterator[Row]:
    sequences, mean = SHAPES[shape]
    lengths = lengths_of("random", options.size(sequences, 8), options.size(mean, mean // 8))
    width, total = options.size(width, width // 4), int(lengths.sum())
    shapes = [(total, width, 3 * width), (total, width, 4 * width), (total, 4 * width, width)]
    flops = partial(transformer_flops, width)
    targets = {"padded": 5.0 if shape == "mean128" else 2.7}
    rows, times = _layer(name, partial(transformer_steps, width), flops, shapes, lengths, targets, options, 0.95)
    rows[0].against = "Hugging Face, padded"
    rows[1].against = rows[1].against.replace("padded", "Hugging Face")
    yield from rows
    yield utilisation(name, times, flops(lengths), 0.75)


def recurrent_on_text(name: str, cell: str, width: int, kind: str, text: str, options: Options) -> Iterator[Row]:
    lengths = real_lengths(text, options.data)
    batches = planned(lengths, options.size(4096, 512 + int(lengths.max())), 1 if kind == "random" else 50, 2)
    targets = recurrent_targets(cell, kind == "pooled", _long(lengths))
    given = {side: batches for side in ("seqlab", *targets)}
    build = partial(recurrent_steps, cell, options.size(width, width // 8))
    runs, apart = contestants(build, {side: side for side in given}, given)
    times, padding = interleaved(runs, options), padding_of(batches)
    for peer, target in targets.items():
        yield versus(
            times, "seqlab", peer, tokens_of(given), name, peer, target=target, apart=apart[peer], padding=padding
        )


def transformer_on_text(name: str, width: int, text: str, options: Options) -> Iterator[Row]:
    """Each side on batches of its own making, of 4096 real tokens on average."""
    lengths = real_lengths(text, options.data)
    tokens, count = options.size(4096, 1024), options.size(4 if width == 256 else 2, 1)
    batches: dict[str, Sequence[Tensor]] = {
        "seqlab": planned(lengths, tokens, 50, count),
        "grouped": grouped(lengths, tokens, count),
    }
    sides = {"seqlab": "seqlab", "grouped": "padded"}
    runs, apart = contestants(partial(transformer_steps, options.size(width, width // 4)), sides, batches)
    yield versus(
        interleaved(runs, options),
        "seqlab",
        "grouped",
        tokens_of(batches),
        name,
        "Hugging Face, length-grouped",
        target=1.1,
        apart=apart["grouped"],
        padding=padding_of(batches["grouped"]),
    )


# ---------------------------------------------------------------------------------------- what is counted


def rows_entering(options: Options) -> Iterator[Row]:
    """Floating-point operations that enter products in a forward pass, over the useful ones: 1, or more if padded."""
    lengths = lengths_of("random", 8, 16)
    layers: dict[str, tuple[Build, Callable[[Tensor], float]]] = {
        cell: (partial(recurrent_steps, cell, 64), partial(recurrent_flops, cell, 64)) for cell in CELLS
    }
    layers["Transformer"] = partial(transformer_steps, 128), partial(transformer_flops, 128)
    for name, (build, flops) in layers.items():
        shares = {}
        mistaken = lengths.clone()
        mistaken[-1] = mistaken[0]  # one sequence padded on purpose
        for kind, given, side in (
            ("seqlab", lengths, "seqlab"),
            ("padded", lengths, "padded"),
            ("on purpose", mistaken, "seqlab"),
        ):
            step = build(given)[0][side]
            shares[kind] = 3 * entering_flops(partial(step.forward, step.x)) / flops(lengths)
        with backend("plain"):
            step = build(lengths)[0]["seqlab"]
            plain = 3 * entering_flops(partial(step.forward, step.x)) / flops(lengths)
        if not shares["on purpose"] > 1 or abs(plain - 1) > 1e-9:
            raise Disagreement(f"{name}: the counter counts {shares['on purpose']} where a sequence was padded")
        yield Row(
            f"{name}: FLOPs entering products / useful",
            "exactly 1",
            values=[abs(shares["seqlab"] - 1)],
            target=1e-9,
            at_least=False,
            ours=shares["seqlab"],
            theirs=shares["padded"],
            unit="",
            padding=padding_of([lengths]),
            note=f"one sequence padded on purpose: {shares['on purpose']:.2f}",
        )


def _steps_for_memory(layer: str, side: str, width: int, lengths: Tensor) -> tuple[Step, Step]:
    def of(given: Tensor) -> Step:
        built = transformer_steps(width, given) if layer == "Transformer" else recurrent_steps(layer, width, given)
        return built[0][side]

    return of(torch.tensor([8])), of(lengths)


def activation_memory(options: Options) -> Iterator[Row]:
    """How the peak of a train step grows when one sequence gets 8 times as long and the tokens stay as many."""
    for layer, sides in (("Transformer", ["seqlab", "padded"]), ("LSTM", ["seqlab", "PackedSequence", "padded"])):
        total, mean = options.size(2048, 1024), 64
        equal = torch.full([total // mean], mean)
        long = torch.cat([torch.tensor([8 * mean]), equal[8:]])
        peaks = {
            side: [peak_bytes(_steps_for_memory, layer, side, 256, lengths) for lengths in (equal, long)]
            for side in sides
        }
        growth = {side: after / before for side, (before, after) in peaks.items()}
        for side in sides[1:]:
            yield Row(
                f"{layer} 256: growth of peak memory, longest 64 to 512",
                side,
                values=[growth["seqlab"]],
                target=1.1,
                at_least=False,
                ours=peaks["seqlab"][1] / 1e6,
                theirs=peaks[side][1] / 1e6,
                unit="MB",
                padding=padding_of([long]),
                note=f"theirs grows {growth[side]:.2f}x; {peaks['seqlab'][0] / 1e6:.0f} MB at equal lengths",
            )


# ------------------------------------------------------------------------------------------------ everything else


def greedy(options: Options) -> Iterator[Row]:
    vocabulary, new = options.size(8000, 200), options.size(64, 8)
    prompts = lengths_of("random", options.size(32, 4), options.size(32, 6)).clamp(max=192)
    ours, theirs = language_models(vocabulary, options.size(256, 64), 4, int(prompts.max()) + new, 0.0)
    theirs.eval()
    tokens = torch.randint(vocabulary, (int(prompts.sum()),), generator=torch.Generator().manual_seed(2))
    rows = [part.flip(0) for part in tokens.split(prompts.tolist())]
    left = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).flip(1)  # Hugging Face decodes from the left
    mask = (torch.arange(left.shape[1]) >= left.shape[1] - prompts.unsqueeze(1)).long()
    batch = Ragged(tokens, Layout(prompts))

    def seqlab() -> Tensor:
        return torch.stack(generate(ours, batch, end=-1, max_tokens=new))

    def huggingface() -> Tensor:
        with torch.no_grad():
            whole = theirs.generate(
                left, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
            )
        return whole[:, left.shape[1] :]

    same = (seqlab() == huggingface()).float().mean().item()
    if same < 0.99:
        raise Disagreement(f"only {same:.1%} of the decoded tokens are the same")
    times = interleaved({"seqlab": seqlab, "Hugging Face": huggingface}, options)
    written = dict.fromkeys(times, float(len(prompts) * new))
    what = f"greedy decoding, {len(prompts)} prompts, {new} new tokens"
    yield versus(
        times,
        "seqlab",
        "Hugging Face",
        written,
        what,
        "Hugging Face generate",
        target=2.0,
        padding=padding_of([prompts]),
        note=f"{same:.1%} of the tokens are the same",
    )


def _many_lengths(number: int) -> Any:
    return np.random.default_rng(0).lognormal(3.0, 0.8, number).astype(np.int64).clip(1, 2000)


def _plan_for_memory(number: int) -> tuple[Callable[[], object], Callable[[], object]]:
    return tuple(partial(lambda n: make_plan(_many_lengths(n), 16384, 50, 0, 0), n) for n in (1000, number))  # type: ignore[return-value]


def plan(options: Options) -> Iterator[Row]:
    number = options.size(10_000_000, 100_000)
    lengths = _many_lengths(number)
    times = interleaved(
        {"seqlab": partial(make_plan, lengths, 16384, 50, 0, 0)}, Options(rounds=options.size(3, 1), seconds=30)
    )
    what = f"batch plan of {number:,} lengths"
    seconds = statistics.median(times["seqlab"])
    yield Row(what, "seconds", times["seqlab"], 5.0, False, ours=seconds, unit="s", samples=times)
    peak = peak_bytes(_plan_for_memory, number) / 1e9
    yield Row(what, "peak memory", [peak], 1.0, False, ours=peak, unit="GB", note="the lengths included")


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
        assert hidden.grad is not None
        assert head.weight.grad is not None
        return {"loss": loss.detach(), "hidden": hidden.grad, "weight": head.weight.grad}

    return step


def _head_for_memory(kind: str, width: int, classes: int, rows: int) -> tuple[Any, Any]:
    return _head(kind, width, classes, 8), _head(kind, width, classes, rows)


def output_layer(options: Options) -> Iterator[Row]:
    size = options.size(256, 32), options.size(32_000, 1000), options.size(2048, 128)
    sides = {kind: _head(kind, *size) for kind in ("seqlab", "whole")}
    apart = agree(sides["seqlab"](), sides["whole"]())
    times = interleaved(sides, options)
    what = f"output layer and loss, {size[2]} rows, V {size[1]:,}"
    tokens = dict.fromkeys(sides, float(size[2]))
    yield versus(times, "seqlab", "whole", tokens, what, "F.cross_entropy on whole scores", apart=apart)
    ours, theirs = (peak_bytes(_head_for_memory, kind, *size) / 1e6 for kind in sides)
    yield Row(f"{what}: peak memory", "the same", [theirs / ours], ours=ours, theirs=theirs, unit="MB")


def min_gru(options: Options) -> Iterator[Row]:
    """A recurrence that a scan computes, against the GRU it is made from (Feng et al. 2024)."""
    try:
        from seqlab.layers.scan import MinGRUCell
    except ImportError:
        yield from not_built("minGRU 256 train step", "GRU", 1.0)
        return
    width = options.size(256, 32)
    for shape, (sequences, mean) in SHAPES.items():
        lengths = lengths_of("random", options.size(sequences, 8), options.size(mean, mean // 8))
        stacks = {"minGRU": RecurrentStack(width, width, MinGRUCell), "GRU": RecurrentStack(width, width, GRUCell)}
        steps = {name: seqlab_step(stack, *batch_of(width, lengths)) for name, stack in stacks.items()}
        tokens = dict.fromkeys(stacks, float(lengths.sum()))
        what = f"minGRU {width} random {shape}"
        times = interleaved(steps, options)
        yield versus(times, "minGRU", "GRU", tokens, what, "seqlab's GRU", padding=padding_of([lengths]))


def bfloat16(options: Options) -> Iterator[Row]:
    """The same layers under autocast."""
    for name, width in (("Transformer", 256), ("LSTM", 512)):
        lengths = lengths_of("bucketed", options.size(32, 8), options.size(128, 16))
        width = options.size(width, 64)
        steps = (transformer_steps(width, lengths) if name == "Transformer" else recurrent_steps(name, width, lengths))[
            0
        ]
        step = steps["seqlab"]
        low = replace(step, forward=torch.autocast("cpu", torch.bfloat16)(step.forward))
        apart = agree(*({"output": one.forward(one.x).float()} for one in (low, step)), tolerance=0.1)
        times = interleaved({"bfloat16": low, "float32": step}, options)
        tokens = dict.fromkeys(times, float(lengths.sum()))
        yield versus(times, "bfloat16", "float32", tokens, f"{name} {width}, bfloat16 autocast", "float32", apart=apart)
