"""python scripts/reproduce.py --data FOLDER [--only NAME ...]: published results, run by run, into docs/results.md.

FOLDER holds the data as its authors publish it, in folders trec6, sst, cogs, ud_english_ewt, multi30k and wikitext2;
what is generated needs none. They are prepared in runs/reproduce/data, which SEQLAB_DATA may name for other runs too;
`--only`, of nothing, does no more than that. Runs lie in runs/reproduce/EXPERIMENT/seed-SEED. What is finished there is
not run again, what was interrupted goes on where it stopped. Every model is chosen on validation data; the test split
is read once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNS = Path("runs/reproduce")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    experiment  of conf/experiment, run once for each seed
    metric      of the test split; the last of several names is that of the figure
    published   what others report, and where
    goal        what to reach, as the table tells it; None: nothing to reach
    scale       what the metric is multiplied by to be told
    evaluate    overrides of `seqlab.evaluate`, where the figure is of other data or of another decoding
    """

    experiment: str
    metric: str
    published: str
    goal: float | None = None
    scale: float = 100.0
    seeds: tuple[int, ...] = (1, 2, 3)
    evaluate: tuple[str, ...] = field(default=())
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.experiment}, {self.label}" if self.label else self.experiment


ROWS = [
    Row("scan_simple", "exact_match", "99.8 (Lake & Baroni 2018, LSTM)", 99.5),
    Row("scan_length", "exact_match", "13.8 to 20.8 (Lake & Baroni 2018, LSTM and best)", 13.8),
    Row("scan_jump", "exact_match", "0.08 to 1.2 (Lake & Baroni 2018, LSTM and best)", 0.08),
    Row("scan_length_relative", "exact_match", "100 at cutoff 26 (Csordás et al. 2021)", seeds=(1,)),
    Row("cogs", "exact_match", "96 to 99 (Kim & Linzen 2020, test)", 96.0, seeds=(1,)),
    Row(
        "cogs",
        "exact_match",
        "16 to 35 (Kim & Linzen 2020, generalisation)",
        16.0,
        seeds=(1,),
        evaluate=("data=tsv", "data.path={data}/cogs/train.tsv", "data.validation={data}/cogs/dev.tsv",
                  "data.test={data}/cogs/gen.tsv", "data.header=false", "data.quote=null",
                  "data.columns.source=0", "data.columns.target=1"),
        label="generalisation",
    ),
    Row("listops", "accuracy", "71 to 74 (Nangia & Bowman 2018, LSTM)", 72.0, seeds=(1,)),
    Row("trec6", "accuracy", "88.2 to 91.2 (Kim 2014, CNN-rand, and later)", 90.0),
    Row("sst2", "accuracy", "83.5 (Kim 2014, CNN-rand, phrases)", 83.5),
    Row("ud_english_ewt", "accuracy", "93 to 95 (BiLSTM without pretrained vectors)", 95.0),
    Row("multi30k", "bleu", "41.02 tokenised (Wu et al. 2021, Transformer-Tiny)", 39.0, 1.0, (1,),
        ("decoding.width=5",), "beam 5"),
]  # fmt: skip


def prepare(raw: Path, folder: Path) -> None:
    """What is not published in a form that `data=` reads becomes JSON lines; the rest is linked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cogs", "ud_english_ewt", "multi30k"):
        if (raw / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to((raw / name).resolve())
    for split in ("train", "valid", "test") if (raw / "wikitext2").exists() else ():
        lines = (raw / "wikitext2" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
        (folder / "wikitext2").mkdir(exist_ok=True)
        # Every line ends in a word of its own, blank ones too: so the published figures count.
        (folder / "wikitext2" / f"{split}.txt").write_text("".join(f"{line} <eos> " for line in lines), "utf-8")
    if (raw / "trec6").exists():
        for split, file in (("train", "TREC.train"), ("test", "TREC.test")):
            write(folder / "trec6" / f"{split}.jsonl", trec(raw / "trec6" / file))
    if (raw / "sst").exists():
        phrases = {text: label for text, label in sst_phrases(raw / "sst" / "trees.train.txt")}
        for split, name in (("validation", "dev"), ("test", "test")):
            write(folder / "sst2" / f"{split}.jsonl", sentences(raw / "sst" / f"stsa.binary.{name}"))
        train = ({"text": text, "label": label} for text, label in phrases.items())
        write(folder / "sst2" / "train.jsonl", train)


def write(file: Path, records: Iterator[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def trec(file: Path) -> Iterator[dict[str, str]]:
    """ "NUM:dist How far is it ?": the part before the colon is one of six types. In Latin-1."""
    for line in file.read_bytes().decode("latin-1").split("\n"):
        label, _, text = line.strip().partition(" ")
        if text:
            yield {"text": text, "label": label.partition(":")[0]}


def sentences(file: Path) -> Iterator[dict[str, str]]:
    """ "1 a fine film": a label and a sentence."""
    for line in file.read_text(encoding="utf-8").split("\n"):
        label, _, text = line.strip().partition(" ")
        if text:
            yield {"text": text, "label": label}


def sst_phrases(file: Path) -> Iterator[tuple[str, str]]:
    """Every phrase of the trees that is not neutral: "(3 (2 a) (3 (3 fine) (2 film)))" holds three, of 0 to 4."""
    for line in file.read_text(encoding="utf-8").split("\n"):
        open_phrases: list[tuple[str, list[str]]] = []
        for symbol in line.replace("(", " ( ").replace(")", " ) ").split():
            if symbol == "(":
                open_phrases.append(("", []))
            elif symbol == ")":
                label, words = open_phrases.pop()
                if open_phrases:
                    open_phrases[-1][1].extend(words)
                if label != "2":
                    yield " ".join(words), str(int(int(label) > 2))
            elif not open_phrases[-1][0]:
                open_phrases[-1] = (symbol, open_phrases[-1][1])
            else:
                open_phrases[-1][1].append(symbol)


def run(row: Row, seed: int, data: Path) -> Path:
    """The folder of a finished run; it is finished now, if it was not."""
    folder = RUNS / row.experiment / f"seed-{seed}"
    words = [f"experiment={row.experiment}", f"seed={seed}", f"output_dir={folder}", "resume=auto"]
    seqlab("train", words, data)
    return folder


def figures(row: Row, folder: Path, data: Path) -> dict[str, Any]:
    """The metrics of the test split, or of what the row asks to evaluate."""
    if not row.evaluate:
        return json.loads((folder / "summary.json").read_text())["test"]
    output = folder / f"{row.label.replace(' ', '-')}.json"
    if not output.exists():
        words = [word.format(data=data) for word in row.evaluate]
        seqlab("evaluate", [f"run={folder}", f"output={output}", *words], data)
    return json.loads(output.read_text())


def seqlab(verb: str, words: list[str], data: Path) -> None:
    print(f"\n$ python -m seqlab.{verb} {' '.join(words)}", flush=True)
    subprocess.run(
        [sys.executable, "-m", f"seqlab.{verb}", *words], check=True, env={**os.environ, "SEQLAB_DATA": str(data)}
    )


def told(row: Row, data: Path) -> str | None:
    """The row of the table; None where no run of it is finished."""
    folders = [RUNS / row.experiment / f"seed-{seed}" for seed in row.seeds]
    folders = [folder for folder in folders if (folder / "summary.json").exists()]
    if not folders:
        return None
    values = [row.scale * figures(row, folder, data)[row.metric] for folder in folders]
    minutes = [json.loads((folder / "summary.json").read_text())["wall_s"] / 60 for folder in folders]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    mean = statistics.mean(values)
    goal = "" if row.goal is None else f"≥ {row.goal:g}{'' if mean >= row.goal else ', missed'}"
    return (
        f"| {row.name} | {row.metric} | {mean:.2f}{spread} | {len(values)} | {goal} | {row.published} "
        f"| {statistics.mean(minutes):.1f} |"
    )


def write_table(output: Path, data: Path) -> None:
    """What somebody has written below the table stays, and so do rows whose runs are not here."""
    before = output.read_text(encoding="utf-8") if output.exists() else ""
    table, blank, remarks = before.partition("\n|---")[2].partition("\n\n")
    known = {line.split("|")[1].strip(): line for line in table.split("\n")[1:] if line}
    rows = "\n".join(filter(None, (told(row, data) or known.get(row.name) for row in ROWS)))
    output.write_text(f"{HEAD}{rows}\n{blank[1:]}{remarks}", "utf-8")


HEAD = """# Published results, run again

Written by `python scripts/reproduce.py --data FOLDER`, on 2 CPU cores. Mean and standard deviation over seeds; every
model is chosen on validation data, and the test split is read at the end, once for a decoding; exceptions are named
below the table. Minutes are those of one training run. A row's command is `python -m seqlab.train experiment=NAME
seed=SEED`, with `SEQLAB_DATA=FOLDER` where it reads data.

| experiment | metric | reached | seeds | to reach | published | minutes |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the published data")
    parser.add_argument(
        "--only", nargs="*", choices=sorted({row.experiment for row in ROWS}), help="without: all; of nothing: no run"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"))
    asked = parser.parse_args()
    data = (RUNS / "data").absolute()
    prepare(asked.data, data)
    print(f"SEQLAB_DATA={data} has {', '.join(sorted(path.name for path in data.iterdir())) or 'nothing'}", flush=True)
    if asked.only == []:
        return
    for row in ROWS:
        if asked.only is None or row.experiment in asked.only:
            for seed in row.seeds:
                figures(row, run(row, seed, data), data)
            write_table(asked.output, data)
    print(asked.output.read_text())


if __name__ == "__main__":
    main()
