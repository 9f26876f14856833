"""python scripts/wikitext2.py [--minutes N] [--rates R ...]: experiment=wikitext2 against the same model in torch.nn.

A tied LSTM of 2 x 200 that carries its state over windows of 35 tokens, 20 side by side. The peer is the word-level
language model of PyTorch's examples, written with torch.nn alone. Both read the same tokens in the same order, with the
same dropout, optimizer, kind of schedule and clipping, and keep the weights that are best on validation data. Each side
first tries every rate for --trial steps. With each of the two whose validation loss is lowest it then reads as many
tokens as it can in --minutes at the speed of its trial; what is better on validation data counts (few steps favour
high rates). The sides run at the same time, with one thread each, so that what else the machine does slows both.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqlab.training.optimizers import adamw
from seqlab.training.schedules import Cosine
from seqlab.training.throughput import peak_rss_bytes

WIDTH, LAYERS, DROPOUT, LANES, WINDOW, SEED, JUDGE_EVERY = 200, 2, 0.4, 20, 35, 1, 1000
SPLITS = ("train", "valid", "test")

Windows = list[tuple[Tensor, Tensor]]


class Peer(nn.Module):
    """As in the example, with its initial weights; and with dropout where seqlab has it."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, LAYERS, dropout=DROPOUT)
        self.decoder = nn.Linear(WIDTH, vocabulary)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens_LB: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, state = self.rnn(self.dropout(self.embedding(tokens_LB)), state)
        return self.decoder(self.dropout(hidden)), state


def windows_of(data: Path) -> tuple[dict[str, Windows], int]:
    """Pairs [35, 20] of tokens and the tokens after them, split by split, and the size of the vocabulary."""
    words = {split: (data / "wikitext2" / f"{split}.txt").read_text(encoding="utf-8").split() for split in SPLITS}
    ids = {word: i for i, word in enumerate(dict.fromkeys(words["train"]))}
    splits = {}
    for split in SPLITS:
        stream = torch.tensor([ids[word] for word in words[split]])
        rows = stream[: len(stream) // LANES * LANES].view(LANES, -1).t().contiguous()
        starts = range(0, len(rows) - 1, WINDOW)
        splits[split] = [(rows[i : i + WINDOW][: len(rows) - 1 - i], rows[i + 1 : i + 1 + WINDOW]) for i in starts]
    return splits, len(ids)


def cross_entropy(scores: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def judge(model: Peer, windows: Windows) -> float:
    """Nats per token."""
    model.eval()
    state, nats = None, 0.0
    for tokens, targets in windows:
        scores, state = model(tokens, state)
        nats += cross_entropy(scores, targets, "sum").item()
    model.train()
    return nats / sum(targets.numel() for _, targets in windows)


def train_peer(data: Path, folder: Path, rate: float, max_tokens: int, trial: bool) -> None:
    """Leaves `summary.json`, as far as it is read here, and a log."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    splits, vocabulary = windows_of(data)
    model = Peer(vocabulary)
    optimizer, schedule, windows = adamw(model, lr=rate), Cosine(), splits["train"]
    steps = math.ceil(max_tokens / (LANES * WINDOW))
    state: Any = None
    began, spent, read, best, weights = time.perf_counter(), 0.0, 0, math.inf, model.state_dict()
    with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
        for step in range(steps):
            since, place = time.perf_counter(), step % len(windows)
            tokens, targets = windows[place]
            state = tuple(part.detach() for part in state) if place else None
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule.factor(step, step / steps)
            optimizer.zero_grad()
            scores, state = model(tokens, state)
            cross_entropy(scores, targets, "mean").backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            spent, read = spent + time.perf_counter() - since, read + targets.numel()
            if (step + 1) % JUDGE_EVERY == 0 or step + 1 == steps:
                loss = judge(model, splits["valid"])
                print(
                    f"step {step + 1}  {read / spent:,.0f} tokens/s  validation loss {loss:.4f}", file=log, flush=True
                )
                if loss < best:
                    best, weights = loss, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    test = {} if trial else {"ppl": math.exp(judge(model, splits["test"]))}
    summary = {
        "validation_best": {"loss": best},
        "test": test,
        "tokens": read,
        "tokens_per_s": read / spent,
        "wall_s": time.perf_counter() - began,
        "peak_rss_mb": peak_rss_bytes() / 1e6,
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def train_seqlab(data: Path, folder: Path, rate: float, max_tokens: int, trial: bool) -> None:
    """By the command that a user would type."""
    limits = ["trainer.max_epochs=null", f"trainer.max_tokens={max_tokens}"]
    settings = [f"optimizer.lr={rate}", f"seed={SEED}", "threads=1", f"trainer.eval_every={JUDGE_EVERY}"]
    words = ["experiment=wikitext2", f"output_dir={folder}", "resume=auto", *settings, *limits]
    if trial:  # it must not see the test split
        words.append(f"data.test={data / 'wikitext2' / 'valid.txt'}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
        environment = {**os.environ, "SEQLAB_DATA": str(data), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "seqlab.train", *words], check=True, stdout=log, env=environment)


SIDES = {"seqlab": train_seqlab, "torch.nn": train_peer}


def run(
    data: Path, name: str, rates: dict[str, float], tokens: dict[str, int], trial: bool = False
) -> dict[str, dict[str, Any]]:
    """Both sides at the same time, unless their run is finished already; their summaries."""
    context = multiprocessing.get_context("spawn")
    folders = {
        side: Path("runs/wikitext2") / side / f"{name}-rate-{rate:g}-{tokens[side]}" for side, rate in rates.items()
    }
    processes = [
        context.Process(target=SIDES[side], args=(data, folder, rates[side], tokens[side], trial))
        for side, folder in folders.items()
        if not (folder / "summary.json").exists()
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a side failed; its message is above")
    return {side: json.loads((folder / "summary.json").read_text("utf-8")) for side, folder in folders.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/reproduce/data"), help="as reproduce.py prepares it")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.002, 0.004, 0.008])
    parser.add_argument("--trial", type=int, default=300, help="steps with each rate")
    asked = parser.parse_args()
    data = asked.data.absolute()
    size = dict.fromkeys(SIDES, asked.trial * LANES * WINDOW)
    tried = {rate: run(data, "trial", dict.fromkeys(SIDES, rate), size, trial=True) for rate in asked.rates}
    ranked, tokens = {}, {}
    for side in SIDES:
        losses = {rate: tried[rate][side]["validation_best"]["loss"] for rate in asked.rates}
        print(f"{side}: validation loss by rate: {', '.join(f'{r:g} {loss:.3f}' for r, loss in losses.items())}")
        ranked[side] = sorted(losses, key=losses.__getitem__)
        tokens[side] = round(60 * asked.minutes * tried[ranked[side][0]][side]["tokens_per_s"])
    print("\n| side | rate | tokens read | tokens/s | validation | test perplexity | peak memory, MB | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for place in range(min(2, len(asked.rates))):
        rates = {side: ranked[side][place] for side in SIDES}
        for side, of in run(data, f"{asked.minutes:g}-minutes", rates, tokens).items():
            validation = math.exp(of["validation_best"]["loss"])
            print(
                f"| {side} | {rates[side]:g} | {of['tokens']:,} | {of['tokens_per_s']:,.0f} | {validation:.1f} "
                f"| {of['test']['ppl']:.1f} | {of['peak_rss_mb']:,.0f} | {of['wall_s'] / 60:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
