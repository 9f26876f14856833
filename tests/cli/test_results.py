"""What a person reads after a run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqlab.cli.results import LONGEST, format_value, shortened
from typing_words import Outcome


@pytest.mark.parametrize(
    ("value", "words", "told"),
    [
        ("A fine film.", None, "A fine film."),
        (2.5799999237060547, None, "2.58"),
        (["war", "love"], None, "war, love"),
        ([], None, "none"),
        (["B-PER", "O"], ["Ann", "met"], "Ann/B-PER met/O"),
        ("a" * (LONGEST + 1), None, "a" * LONGEST + "…"),
    ],
)
def test_predictions_and_truths_are_told_in_short(value: Any, words: list[str] | None, told: str) -> None:
    assert format_value(value, words) == told


def test_a_text_without_blanks_is_shortened_too() -> None:
    assert [shortened(text) for text in ("a b\n c", "word " * 20, "語" * 99)] == [
        "a b c",
        "word " * 11 + "word",
        "語" * 60,
    ]


@pytest.mark.parametrize(
    ("words", "row", "read", "answers", "item"),
    [
        (
            ["task=classification"],
            {"text": "it's {}", "label": "{}"},
            r"it's \d",
            r"predicted: \d \((\d 0\.\d\d, ){3}\.\.\.\)\nreference: \d",
            {"text": "it's 2"},
        ),
        (
            ["task=tagging"],
            {"words": ["Ann", "{}"], "tags": ["B-PER", "O"]},
            r"Ann \d",
            r"predicted: Ann/\S+ \d/\S+\nreference: Ann/B-PER \d/O",
            {"words": ["Ann", "2"]},
        ),
        (
            ["task=seq2seq", "task.decoding.max_tokens=2"],
            {"source": r"\ {}", "target": "B"},  # which is no text for every shell's echo
            r"\\ \d",
            "predicted: .*\nreference: B",
            {"source": "A text."},
        ),
    ],
)
def test_samples_and_the_item_to_try_are_of_the_data(
    verb: Callable[..., Outcome], words: list[str], row: dict[str, Any], read: str, answers: str, item: dict[str, Any]
) -> None:
    for split, many in (("train", 90), ("validation", 90), ("test", 3)):
        rows = [json.dumps(row).replace("{}", str((i + 2) % 9)) for i in range(many)]
        Path(f"{split}.jsonl").write_text("\n".join(rows))
    words = [*words, "data=json", "data.path=train.jsonl", "data.validation=validation.jsonl", "data.test=test.jsonl"]
    words += ["model.width=8", "schedule.warmup_steps=0", "trainer.max_steps=1", "tokenizer=characters"]
    code, out, err = verb("train", *words, "output_dir=a run")
    assert code == 0, err
    assert re.search(r"\n1 step, [\d,]+ tokens, \d+ s, ended by trainer.max_steps=1\n", out)
    samples = out.partition("brackets):\n\n")[2].partition("\n\nlook at it:")[0].split("\n\n")
    assert all(re.fullmatch(rf"\[{read}\]\n{answers}", sample) for sample in samples), samples
    assert len({sample.partition("\n")[0] for sample in samples}) == len(samples) == 5
    typed = shlex.split(out.rpartition("try it:")[2])
    assert (json.loads(typed[1]), typed[-2]) == (item, "run=a run")


def test_signs_alone_are_nothing_to_try(verb: Callable[..., Outcome]) -> None:
    for split in ("train", "validation", "test"):
        Path(f"{split}.txt").write_text("¶\n\\n\n" + "Return it.\n" * 20)
    words = ["data=text", "data.path=train.txt", "data.validation=validation.txt", "data.test=test.txt"]
    words += ["tokenizer=characters", "model.width=8", "schedule.warmup_steps=0", "trainer.max_steps=1"]
    code, out, err = verb("train", *words)
    assert code == 0, err
    assert json.loads(shlex.split(out.rpartition("try it:")[2])[1]) == {"text": "Return"}
