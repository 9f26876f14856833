"""python scripts/judge_samples.py RUN [RUN ...]: what a language model of docstrings is worth, against compressors.

Prints, for the corpus of data=pydocs: bits per byte of `xz -9e` on the test split alone, of xz when it has seen the
training split, and of a 5-gram byte model with Witten-Bell smoothing (Witten & Bell 1991, method C). Then for each run:
bits per byte on the test split; of 400 samples of 100 tokens, the share of words that occur in the corpus, and of runs
of 20 tokens that are copied from training, beside the same share in the test split itself.
"""

from __future__ import annotations

import json
import lzma
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from seqlab import bundle
from seqlab.data.rejects import Rejects
from seqlab.data.sources.pydocs import PyDocs
from seqlab.inference.predictor import Predictor
from seqlab.models.decoding import Decoding

WORD = re.compile(r"[A-Za-z]+")
COPIED = 20  # tokens


def joined(texts: list[str]) -> bytes:
    """One NUL after every docstring, as the model's end mark is counted."""
    return b"".join(text.encode() + b"\0" for text in texts)


def xz(data: bytes) -> int:
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def n_gram_bits(train: bytes, test: bytes, order: int = 5) -> float:
    """Bits to code `test` with counts from `train` alone."""
    counts: list[defaultdict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
    for i, byte in enumerate(train):
        for k in range(min(order, i + 1)):
            counts[k][train[i - k : i]][byte] += 1
    bits = 0.0
    for i, byte in enumerate(test):
        probability = 1 / 256
        for k in range(min(order, i + 1)):
            seen = counts[k].get(test[i - k : i])
            if seen is None:
                break
            total = seen.total()
            probability = (seen[byte] + len(seen) * probability) / (total + len(seen))
        bits -= math.log2(probability)
    return bits


def grams(ids: list[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + COPIED]) for i in range(len(ids) - COPIED + 1)]


def main() -> None:
    splits = {split: table["text"].to_pylist() for split, table in PyDocs().read(Rejects()).items()}
    train, test = joined(splits["train"]), joined(splits["test"])
    print(f"test split: {len(test):,} bytes")
    print(f"xz -9e alone: {xz(test) / len(test):.3f}")
    print(f"xz(train + test) - xz(train): {(xz(train + test) - xz(train)) / len(test):.3f}")
    print(f"5-gram byte model: {n_gram_bits(train, test) / len(test):.3f}")
    known = {word.lower() for texts in splits.values() for text in texts for word in WORD.findall(text)}
    for run in sys.argv[1:]:
        loaded = bundle.load(run)
        encode = loaded.vocabularies.tokenizer.encode
        learned = {gram for ids in encode(splits["train"]) for gram in grams(ids)}
        samples = [
            answer["continuation"]
            for answer in Predictor(loaded).predict([{"text": ""}] * 400, Decoding(100, temperature=1.0), seed=7)
        ]
        words = [word.lower() for text in samples for word in WORD.findall(text)]
        shares = {}
        for name, texts in (("samples", samples), ("test", splits["test"])):
            found = [gram in learned for ids in encode(texts) for gram in grams(ids)]
            shares[name] = f"{sum(found)} of {len(found)} ({sum(found) / max(1, len(found)):.3%})"
        figures = json.loads((Path(run) / "summary.json").read_text())
        print(f"\n{run}: {figures['test']['bits_per_byte']:.3f} bits per byte on test, {figures['wall_s']:.0f} s")
        share = sum(word in known for word in words) / len(words)
        print(f"words of samples that occur in the corpus: {share:.1%} of {len(words)}")
        print(f"runs of {COPIED} tokens copied from training: samples {shares['samples']}, test {shares['test']}")


if __name__ == "__main__":
    main()
