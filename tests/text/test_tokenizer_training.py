"""The same texts give the same tokenizer, and each kind is what its name says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqlab.errors import InputError
from seqlab.text.tokenizer_training import BytePairs, Bytes, Characters, Given, Words

CORPUS = Path(__file__).parents[1] / "corpus" / "train.txt"
LINES = CORPUS.read_text(encoding="utf-8").splitlines()


def test_training_repeats_in_other_processes() -> None:
    trainers = [BytePairs(600), Words(60), Characters()]
    program = (
        "import sys; from pathlib import Path; from seqlab.text.tokenizer_training import BytePairs, Characters, Words;"
        f"lines = Path({str(CORPUS)!r}).read_text(encoding='utf-8').splitlines();"
        f"print(*[trainer.train(lines).digest for trainer in {trainers}])"
    )
    expected = [trainer.train(LINES).digest for trainer in trainers]
    for hash_seed, threads in (("1", "1"), ("2", "4")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        output = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
        assert output.stdout.decode().split() == expected


def test_byte_pairs() -> None:
    tokenizer = BytePairs(400).train(LINES)
    assert len(tokenizer) == 400
    assert tokenizer.end == 0
    assert sum(map(len, tokenizer.encode(LINES))) < sum(map(len, LINES)) / 2
    assert len(BytePairs(400).train(["abab abab"])) < 270  # no pair is left that occurs twice
    ids = tokenizer.encode(["the miller"])[0]
    assert " " not in tokenizer.decode(ids[:1])  # tokens do not span blanks


def test_bytes() -> None:
    tokenizer = Bytes().train([])
    assert len(tokenizer) == 257
    assert [len(ids) for ids in tokenizer.encode(["abc", "é", "晴", ""])] == [3, 2, 3, 0]


def test_characters() -> None:
    tokenizer = Characters().train(["abé"])
    assert len(tokenizer) == 1 + 256 + 3
    assert [len(ids) for ids in tokenizer.encode(["aéb", "晴", "c"])] == [3, 3, 1]  # the unseen ones as bytes


def test_words() -> None:
    tokenizer = Words(100).train(["to be, or not to be", "or once"])
    ids = tokenizer.encode(["to be once, never"])[0]
    unknown = tokenizer.encode(["xyz"])[0]
    assert len(tokenizer) == 5  # end, unknown, and the words that occur twice
    assert ids[2:3] == unknown
    assert tokenizer.decode(ids) == "to be <unk> <unk> <unk>"
    assert tokenizer.encode(["<unk>"])[0] == unknown * 3  # a text cannot ask for it by name


def test_the_unknown_word_is_seen_in_training() -> None:
    tokenizer = Words().train(LINES[:20])
    assert any(tokenizer.encode(["qqq"])[0][0] in ids for ids in tokenizer.encode(LINES[:20]))


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"tokenizer\.vocab_size=256 .* at least 257"):
        BytePairs(256)
    assert len(BytePairs(257).train(LINES)) == 257
    with pytest.raises(InputError, match=r"tokenizer\.vocab_size=2 "):
        Words(2)


def test_fingerprints_differ_where_results_do(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(Bytes().train([]).to_json(), encoding="utf-8")
    given = Given(str(path), "<|end|>").fingerprint()
    prints = [t.fingerprint() for t in (BytePairs(), BytePairs(300), Bytes(), Characters(), Words(), Words(9))]
    assert len({*prints, given, Given(str(path), "<s>").fingerprint()}) == 8
    assert BytePairs(1024).fingerprint() == BytePairs().fingerprint()
    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    assert Given(str(tmp_path / "copy.json"), "<|end|>").fingerprint() == given
    path.write_text(path.read_text() + " ")
    assert Given(str(path), "<|end|>").fingerprint() != given
    with pytest.raises(InputError, match=r"tokenizer\.path="):
        Given(str(tmp_path / "missing.json"), "<s>").fingerprint()
