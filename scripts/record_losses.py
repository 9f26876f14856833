"""Record what training and decoding compute, bit for bit, so that a change of the code can be compared with another.

    git worktree add ../before COMMIT
    PYTHONPATH=../before python scripts/record_losses.py before.json
    python scripts/record_losses.py after.json
    python scripts/record_losses.py --compare before.json after.json

Every task, model and decoding is trained for 20 steps, at one thread and at two, in machine code and by operators
alone. The file holds the losses of all steps and of the validation as hex floats, the SHA-256 of the final weights, and
what the trained models write. Two files compare only if they were recorded on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "corpus"
SHORT = [
    "tokenizer.vocab_size=400", "model.width=16", "batch.tokens=512", "schedule.warmup_steps=2", "device=cpu",
    "trainer.max_epochs=null", "trainer.max_steps=20", "trainer.eval_every=10", "trainer.save_every=20",
    "trainer.log_every=1", "trainer.micro_tokens=400", "batch.max_length=300",
]  # fmt: skip
TEXT = [
    "data=text",
    *(f"data.{key}={CORPUS / name}.txt" for key, name in
      (("path", "train"), ("validation", "validation"), ("test", "test"))),
]  # fmt: skip
SIZES = ["data.train=400", "data.validation=40", "data.test=40"]
TRANSFORMER = ["model=transformer", "model.layers=2", "model.heads=2"]
UNIVERSAL = ["model=universal", "model.heads=2", "model.max_steps=3"]
RECURRENT = {name: [f"model={name}", "model.layers=2"] for name in ("lstm", "gru", "tanh", "mingru", "minlstm")}
MODELS = {**RECURRENT, "transformer": TRANSFORMER, "universal": UNIVERSAL}
POSITIONS = ("learned", "sinusoidal", "relative", "none")
TREES = ["data=listops", *SIZES, "data.lengths=[1,60]", "tokenizer=words", "~tokenizer.vocab_size"]
BRACKETS = ["data=dyck", *SIZES, "data.invalid=0.5", "data.test_lengths=null", "tokenizer=characters"]
TAGS = ["task=tagging", "data=pytokens", "data.train=200", "data.validation=20", "data.test=20", "data.max_words=60"]
PAIRS = [
    "task=seq2seq", "data=algorithmic", "data.kind=reverse", *SIZES, "data.symbols=8", "data.lengths=[1,9]",
    "task.decoding.max_tokens=12",
]  # fmt: skip
DRAWN = ["decoding.temperature=0.8", "decoding.top_k=20", "decoding.top_p=0.9"]
BEAM = ["decoding.width=4", "decoding.n_best=4", "decoding.length_penalty=0.6"]
DECODINGS = {"greedy": ["decoding.temperature=0"], "drawn": DRAWN, "beam": BEAM}
PROMPTS = {
    "language": ['{"text": "Return the"}', '{"text": ""}', '{"text": "A list of all"}'],
    "pairs": ['{"source": "1 2 3"}', '{"source": "7"}', '{"source": "5 5 0 1 2", "target_prefix": "2"}'],
}


def trainings() -> dict[str, list[str]]:
    """The overrides of each training by its name. A training whose name begins with a key of PROMPTS also writes."""
    runs: dict[str, list[str]] = {}
    for name, model in MODELS.items():
        runs[f"language {name}"] = [*TEXT, *model]
        runs[f"masked {name}"] = ["task=masked_language_modeling", *TEXT, *model]
        runs[f"classes {name}"] = ["task=classification", *BRACKETS, *model]
        runs[f"tags {name}"] = [*TAGS, *model]
        runs[f"pairs {name}"] = [*PAIRS, *model, "tokenizer=words"]
    for name in RECURRENT:
        runs[f"stream {name}"] = [
            "task=stream_language_modeling",
            "form.lanes=7",
            "form.window=11",
            *TEXT,
            *MODELS[name],
        ]
    for positions in POSITIONS:
        runs[f"language {positions}"] = [*TEXT, *TRANSFORMER, f"model/positions={positions}"]
    more = {
        "language window": [*TRANSFORMER, "model.window=5", "model.kv_heads=1"],
        "language gated": [*TRANSFORMER, "model.activation=swiglu", "model.norm=rms", "model.attention_dropout=0.2"],
        "language checkpointing": [*TRANSFORMER, "model.checkpointing=true"],
        "language variational": [*MODELS["lstm"], "model.variational=true", "model.residual=true"],
        "language untied": [*MODELS["gru"], "task.model.tied=false", "task.model.label_smoothing=0.1"],
        "language bfloat16": [*TRANSFORMER, "precision=bfloat16"],
        "language bfloat16 lstm": [*MODELS["lstm"], "precision=bfloat16"],
        "language streamed": [*MODELS["lstm"], "batch.streaming=true", "batch.pool=3"],
        "language truncated": [*MODELS["lstm"], "batch.over_long=truncate", "batch.max_length=40"],
        "language bytes": [*MODELS["gru"], "tokenizer=bytes", "optimizer=sgd", "schedule=linear"],
    }
    runs |= {name: [*TEXT, *words] for name, words in more.items()}
    for pooling in ("max", "first", "last", "attention"):
        runs[f"classes {pooling}"] = [
            "task=classification", *BRACKETS, *MODELS["lstm"], f"task.model.pooling={pooling}",
        ]  # fmt: skip
    runs |= {
        "classes trees": ["task=classification", *TREES, *TRANSFORMER],
        "many": ["task=classification", *TREES, *MODELS["gru"], "form.answer=many"],
        "numbers": ["task=classification", *TREES, *MODELS["gru"], "form.answer=number"],
        "tags softmax": [*TAGS, *MODELS["gru"], "task.model.head=softmax", "task.model.pooling=mean"],
        "tags spelled": [*TAGS, *MODELS["lstm"], "word_vectors@task.model.word_vectors=spelling", "form.words=50"],
        "pairs no attention": [*PAIRS, *MODELS["gru"], "tokenizer=words", "task.model.attention=false"],
        "pairs shared": [
            *PAIRS, *TRANSFORMER, "tokenizer=words", "task.model.shared_embedding=true", "task.model.tied=true",
        ],
        "pairs two tokenizers": [*PAIRS, *MODELS["lstm"], "tokenizer=words", "tokenizer@form.target_tokenizer=bytes"],
    }  # fmt: skip
    return runs


def words_of(own: list[str], threads: int) -> list[str]:
    """The command line of a training: its own words take the place of those in SHORT."""
    named = {word.partition("=")[0].removeprefix("~") for word in own if word.partition("=")[2] or word[0] == "~"}
    if any(word in ("tokenizer=words", "tokenizer=bytes", "tokenizer=characters") for word in own):
        named.add("tokenizer.vocab_size")
    if "task=stream_language_modeling" in own:
        named |= {"batch.max_length"}
    own = [word for word in own if word[0] != "~"]
    return [
        *own,
        *(word for word in SHORT if word.partition("=")[0] not in named),
        f"threads={threads}",
        "output_dir=run",
    ]


def verb(name: str, words: list[str]) -> None:
    """Type a command, in this process."""
    from importlib import import_module

    sys.argv = [f"seqlab.{name}", *words]
    try:
        import_module(f"seqlab.{name}").main()
    except SystemExit as leaving:
        if leaving.code:
            raise RuntimeError(f"{sys.argv} ended with exit code {leaving.code}") from None


def figures_of(run: Path) -> Iterator[str]:
    """The losses of a run, as "train 12 0x1.8p+2", and the digest of its last weights."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        point = json.loads(line)
        yield f"{point['split']} {point['step']} {float(point['loss']).hex()}"
    weights = (run / "checkpoints" / "last" / "model.safetensors").read_bytes()
    yield f"weights {hashlib.sha256(weights).hexdigest()}"


def record(threads: int, only: str) -> dict[str, list[str]]:
    """What each training and decoding gives, by its name."""
    import torch

    found: dict[str, list[str]] = {}
    here = Path.cwd()
    for name, own in trainings().items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                verb("train", words_of(own, threads))
                found[name] = list(figures_of(Path("run")))
                if prompts := PROMPTS.get(name.split()[0]):
                    Path("prompts.jsonl").write_text("\n".join(prompts) + "\n")
                    torch.set_num_threads(threads)
                    for kind, decoding in DECODINGS.items():
                        words = ["run=run", "input=prompts.jsonl", "output=out.jsonl", "device=cpu", *decoding]
                        verb("predict", [*words, "decoding.max_tokens=12"])
                        found[f"{name}, {kind}"] = Path("out.jsonl").read_text().splitlines()
            finally:
                os.chdir(here)
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs; the number of differences."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    different = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    lines = sum(map(len, one.values()))
    print(f"{len(one)} recordings of {lines} lines: {len(different)} differ")
    for name in different:
        pairs = zip(one.get(name, ["missing"]), other.get(name, ["missing"]), strict=False)
        print(f"  {name}: " + next((f"{a} before, {b} after" for a, b in pairs if a != b), "other lines"))
    return len(different)


def main() -> None:
    """Record, or compare two recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="the file to write, or two to compare")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--only", default="", help="record the trainings whose name contains this")
    parser.add_argument("--threads", type=int, help="record at this number of threads alone, in this process")
    given = parser.parse_args()
    if given.compare:
        sys.exit(compare(*given.files) > 0)
    (out,) = given.files
    if given.threads:
        out.write_text(json.dumps(record(given.threads, given.only), indent=1))
        return
    found: dict[str, list[str]] = {}
    for threads in (1, 2):
        for compiled in ("1", "0"):  # a process for each: what is compiled is chosen once
            part = out.with_suffix(f".{threads}.{compiled}.json")
            words = [sys.executable, __file__, str(part), "--threads", str(threads), "--only", given.only]
            with tempfile.TemporaryDirectory() as cache:
                subprocess.run(
                    words, check=True, env={**os.environ, "SEQLAB_COMPILED": compiled, "SEQLAB_CACHE": cache},
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
            kind = f"{threads} threads, {'machine code' if compiled == '1' else 'operators'}"
            found |= {f"{kind}: {name}": lines for name, lines in json.loads(part.read_text()).items()}
            part.unlink()
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} recordings in {out}")


if __name__ == "__main__":
    main()
