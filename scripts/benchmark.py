"""python scripts/benchmark.py [--threads 2] [--rounds 7]: a train step of seqlab's layers against torch's own.

All sides get the same sequences and the same weights; their outputs are compared first. A train step is
forward and backward. Sides take turns (A B A B ...), medians are reported, and only real tokens count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from seqlab import Layout, Ragged
from seqlab.layers.cells import GRUCell, LSTMCell
from seqlab.layers.positions import NoPositions
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.transformer import TransformerStack

Side = Callable[[], Tensor]


def lengths_of(kind: str, sequences: int, mean: int) -> Tensor:
    """Log-normal lengths with that mean: a batch as it comes ("random"), or of neighbours in length ("sorted")."""
    generator = torch.Generator().manual_seed(0)
    sigma = 0.8
    many = torch.exp(torch.randn(sequences * 50, generator=generator) * sigma - sigma**2 / 2) * mean
    many = many.round().long().clamp(1, 12 * mean)
    if kind == "sorted":
        many = many.sort().values[25 * sequences :]
    return many[:sequences].sort(descending=True).values


def recurrent_sides(
    cell: type[nn.Module], module: type[nn.RNNBase], width: int, x: Ragged
) -> tuple[dict[str, Side], float]:
    """seqlab, PackedSequence and padding with one set of weights, and how far their outputs are apart."""
    ours = RecurrentStack(width, width, cell)
    theirs = module(width, width, batch_first=True)
    for name, parameter in ours.layers[0][0].cell.named_parameters():
        getattr(theirs, f"{name}_l0").data = parameter.data
    padded, lengths = x.to_padded().detach().requires_grad_(), x.lengths

    def packed() -> PackedSequence:
        return theirs(pack_padded_sequence(padded, lengths, batch_first=True))[0]

    by_packed, _ = pad_packed_sequence(packed(), batch_first=True)
    apart = (ours(x).to_padded() - by_packed).detach().abs().max().item()
    sides = {
        "seqlab": lambda: ours(x).values.sum(),
        "PackedSequence": lambda: packed().data.sum(),
        "padded": lambda: theirs(padded)[0].sum(),
    }
    return sides, apart


def transformer_sides(width: int, x: Ragged) -> tuple[dict[str, Side], float]:
    """Two blocks, seqlab's and those of `nn.TransformerEncoder` with a padding mask, with one set of weights."""
    ours = TransformerStack(width, 4, 2, 4 * width, False, NoPositions(width, width // 4))
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
    for a, b in zip(ours.blocks, theirs.layers, strict=True):
        pairs = [(a.attention_norm, b.norm1), (a.mlp_norm, b.norm2), (a.mlp[0], b.linear1), (a.mlp[2], b.linear2)]
        pairs += [(a.attention.out, b.self_attn.out_proj)]
        for mine, yours in pairs:
            yours.load_state_dict(mine.state_dict())
        b.self_attn.in_proj_weight.data = a.attention.qkv.weight.data
        b.self_attn.in_proj_bias.data = a.attention.qkv.bias.data
    padded = x.to_padded().detach().requires_grad_()
    mask = torch.arange(x.layout.longest) >= x.lengths.unsqueeze(1)
    by_mask = Ragged.from_padded(theirs(padded, src_key_padding_mask=mask), x.lengths)
    apart = (ours(x).values - by_mask.values).detach().abs().max().item()
    sides = {
        "seqlab": lambda: ours(x).values.sum(),
        "padded": lambda: theirs(padded, src_key_padding_mask=mask).sum(),
    }
    return sides, apart


def seconds(side: Side) -> float:
    began = time.perf_counter()
    side().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(
        title=f"train step, real tokens per second, medians of {arguments.rounds}, {arguments.threads} threads"
    )
    for heading in ("layer", "batch", "padding", "seqlab", "PackedSequence", "padded", "times faster", "outputs apart"):
        table.add_column(heading, justify="left" if heading in ("layer", "batch") else "right")
    for name in ("LSTM 256", "GRU 256", "Transformer 256"):
        for kind in ("random", "sorted"):
            for sequences, mean in ((64, 27), (32, 128)):
                torch.manual_seed(0)
                layout = Layout(lengths_of(kind, sequences, mean))
                x = Ragged(torch.randn(layout.total, 256, requires_grad=True), layout)
                if name == "Transformer 256":
                    sides, apart = transformer_sides(256, x)
                else:
                    cell, module = (LSTMCell, nn.LSTM) if name == "LSTM 256" else (GRUCell, nn.GRU)
                    sides, apart = recurrent_sides(cell, module, 256, x)
                assert apart < 1e-4, f"{name}: the sides do not compute the same thing, {apart}"
                times: dict[str, list[float]] = {side: [] for side in sides}
                for _ in range(arguments.rounds + 1):  # the first round warms up
                    for side in sides:
                        times[side].append(seconds(sides[side]))
                rate = {side: layout.total / statistics.median(taken[1:]) for side, taken in times.items()}
                table.add_row(
                    name,
                    f"{sequences} {kind}, mean {mean}",
                    f"{len(layout) * layout.longest / layout.total:.2f}x",
                    *(f"{rate[side]:,.0f}" if side in rate else "" for side in ("seqlab", "PackedSequence", "padded")),
                    " / ".join(f"{rate['seqlab'] / rate[side]:.2f}" for side in rate if side != "seqlab"),
                    f"{apart:.0e}",
                )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
