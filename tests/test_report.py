"""What `python -m seqlab.report` says of files whose every figure is counted by hand, in each of the four forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from typing_words import CORPUS, Outcome

Verb = Callable[..., Outcome]
JSON = [
    "data=json",
    *(
        f"data.{setting}={split}.jsonl"
        for setting, split in (("path", "train"), ("validation", "dev"), ("test", "test"))
    ),
    "tokenizer=bytes",
]


def files(train: list[Any], dev: list[Any], test: list[Any]) -> None:
    """A record, or a line as it is, on every line."""
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        Path(f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def report(verb: Verb, *words: str) -> tuple[dict[str, Any], str]:
    """What report.json holds, and what was printed."""
    code, out, err = verb("report", *words, "output_dir=out")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    return json.loads(Path("out/report.json").read_text()), out


def lines_of(out: str, first: str) -> list[list[str]]:
    """The rows of tables that begin with a word, by their cells."""
    return [line.split() for line in out.splitlines() if line.startswith(f" {first} ")]


def text_of(*texts: str) -> list[Any]:
    return [{"text": text} for text in texts]


def test_text(verb: Verb) -> None:
    files(
        [*text_of("ab a", "c", "ab a", "abcdefghij"), "{broken", *text_of("x" * 7)],
        text_of("ab a", "é"),
        text_of("abc", "a", "b"),
    )
    settings = ["data.on_error=skip", "data.max_rejected=0.2", "batch.tokens=12", "batch.max_length=8"]
    found, out = report(verb, *JSON, *settings)
    assert found["rejected"] == {"not JSON": 1}
    assert "1 not JSON" in out
    assert {key: found["batch"][key] for key in ("tokens", "max_length", "over_long")} == {
        "tokens": 12, "max_length": 8, "over_long": "split",
    }  # fmt: skip
    # Text of n bytes is n + 1 tokens: an end mark is read, too.
    assert found["rows"]["train"] == {
        "rows": 5, "tokens": 31, "over_long_rows": 1, "over_long_tokens": 11, "lost_tokens": 0, "examples": 6,
    }  # fmt: skip
    assert found["lengths"]["read"]["train"] == {
        "min": 2, "5": 2, "25": 5, "50": 5, "75": 8, "95": 11, "99": 11, "max": 11, "mean": 6.2, "total": 31,
    }  # fmt: skip
    vocabulary = found["vocabulary"]["read"]
    assert vocabulary["size"] == 257
    assert vocabulary["splits"]["train"] | {"used": 0} == {
        "tokens": 26, "distinct": 12, "used": 0, "unknown": None, "unseen": 0, "unseen_share": 0.0,
        "bytes_per_token": 1.0, "characters_per_token": 1.0, "tokens_per_word": 26 / 7,
    }  # fmt: skip
    assert vocabulary["splits"]["train"]["used"] == 12 / 256
    dev = vocabulary["splits"]["validation"]
    assert (dev["unseen"], dev["unseen_share"], dev["characters_per_token"]) == (2, 2 / 6, 5 / 6)
    # Pieces of 8, 8, 5, 5, 3 and 2 tokens, in one pool: the longest that still fits.
    assert found["batches"]["train"] == {
        "batches": 3,
        "tokens": {"mean": 31 / 3, "min": 10, "max": 11},
        "sequences": {"mean": 2.0, "min": 2, "max": 2},
        "fill": pytest.approx(31 / 36),
    }
    padding = found["padding"]["train"]
    assert (padding["tokens"], padding["sequences"]) == (31, 2)
    assert padding["ours"] == {"cells": 42, "share": pytest.approx(11 / 42), "times": pytest.approx(42 / 31)}
    assert padding["grouped"]["cells"] == 2 * (8 + 5 + 3)
    assert 32 <= padding["random"]["cells"] <= 42
    assert found["repeated"] == {
        "train": {"within": 1, "within_share": 0.2},
        "validation": {"within": 0, "within_share": 0.0, "in_train": 1, "in_train_share": 0.5},
        "test": {"within": 0, "within_share": 0.0, "in_train": 0, "in_train_share": 0.0},
    }
    assert {"labels", "spans", "words", "numbers"}.isdisjoint(found)
    table = lines_of(out, "train")
    assert table[0] == ["train", "5", "31", "1", "11", "6", "0", "0.0", "%"]
    assert table[1] == ["train", "2", "2", "5", "5", "8", "11", "11", "11", "6.2", "31"]
    share, times = 100 * (1 - 31 / padding["random"]["cells"]), padding["random"]["cells"] / 31
    assert " ".join(table[4]) == f"train 2 {share:.1f} % x {times:.2f} 3.1 % x 1.03 26.2 % x 1.35"


def test_text_and_label(verb: Verb) -> None:
    files(
        [{"text": "aa", "label": "yes"}, {"text": "b", "label": "no"}, {"text": "f", "label": "yes"}],
        [{"text": "cc", "label": "no"}, {"text": "d", "label": "no"}],
        [{"text": "aa", "label": "yes"}, {"text": "e", "label": "no"}],
    )
    found, out = report(
        verb, *JSON, "task=classification", "batch.tokens=8", "batch.max_length=2", "batch.over_long=truncate"
    )
    assert found["rows"]["train"] == {
        "rows": 3, "tokens": 7, "over_long_rows": 1, "over_long_tokens": 3, "lost_tokens": 1, "examples": 3,
    }  # fmt: skip
    assert found["labels"]["majority"] == "yes"
    assert found["labels"]["splits"]["validation"] == {
        "rows": 2, "targets": 2, "ignored": 0, "counts": {"yes": 0, "no": 2}, "missing": ["yes"], "majority": 0.0,
    }  # fmt: skip
    assert [found["labels"]["splits"][split]["majority"] for split in ("train", "test")] == [2 / 3, 0.5]
    assert found["repeated"]["test"]["in_train"] == 1
    assert "missing in validation: yes" in out
    assert lines_of(out, "yes") == [["yes", "2", "66.7", "%", "0", "0.0", "%", "1", "50.0", "%"]]


def test_words_and_tags(verb: Verb) -> None:
    def row(words: str, tags: str) -> dict[str, Any]:
        return {"words": words.split(), "tags": tags.split()}

    files(
        [row("Ann saw Bo Li", "B-per O B-per I-per"), row("Rome", "B-loc"), row("saw saw", "O O")],
        [row("Li saw", "I-per O")],
        [row("Ann saw Rome", "O O B-loc"), row("Rome", "B-loc")],
    )
    found, out = report(verb, *JSON, "task=tagging", "form.words=9")
    assert found["lengths"]["words"]["train"]["total"] == 7
    assert found["lengths"]["read"]["train"]["total"] == 10 + 4 + 6
    assert found["vocabulary"]["read"]["splits"]["train"]["tokens_per_word"] == 20 / 7
    assert found["words"] == {
        "train": {"words": 7, "known": 3 / 7},  # only "saw" is there twice
        "validation": {"words": 2, "known": 1 / 2},
        "test": {"words": 4, "known": 1 / 4},
    }
    assert found["labels"]["splits"]["train"]["counts"] == {"O": 3, "B-per": 2, "B-loc": 1, "I-per": 1, "I-loc": 0}
    assert found["labels"]["splits"]["test"]["majority"] == 0.5
    assert found["spans"] == {
        "train": {"loc": 1, "per": 2},
        "validation": {"loc": 0, "per": 1},
        "test": {"loc": 2, "per": 0},
    }
    assert found["repeated"]["test"]["in_train"] == 1
    assert lines_of(out, "per") == [["per", "2", "1", "0"]]
    assert {path.name for path in Path("out").glob("*.png")} == {"lengths-read.png", "lengths-words.png"}


def test_source_and_target(verb: Verb) -> None:
    files(
        [{"source": "ab", "target": "x"}, {"source": "c", "target": "xyz"}, {"source": "ab", "target": "y"}],
        [{"source": "ab", "target": "z"}],
        [{"source": "abc", "target": "w"}],
    )
    target = "tokenizer@form.target_tokenizer=characters"
    found, _ = report(verb, *JSON, "task=seq2seq", target, "batch.tokens=16")
    assert {side: part["train"]["total"] for side, part in found["lengths"].items()} == {"read": 8, "written": 8}
    assert found["rows"]["train"]["tokens"] == 16
    assert {side: part["size"] for side, part in found["vocabulary"].items()} == {"read": 257, "written": 257 + 3}
    written = found["vocabulary"]["written"]["splits"]
    assert (written["train"]["tokens"], written["train"]["distinct"], written["test"]["unseen"]) == (5, 3, 1)
    # One batch: sources of 3, 3 and 2 tokens, targets of 2, 2 and 4.
    assert found["batches"]["train"]["batches"] == 1
    one = {"cells": 9 + 12, "share": pytest.approx(5 / 21), "times": pytest.approx(21 / 16)}
    assert {way: found["padding"]["train"][way] for way in ("random", "grouped", "ours")} == {
        "random": one, "grouped": one, "ours": one,
    }  # fmt: skip
    assert found["repeated"]["validation"]["in_train_share"] == 1.0


def test_tensorboard_shows_the_tables_and_the_lengths(verb: Verb) -> None:
    files(text_of("ab", "abc", "abcd"), text_of("a"), text_of("b"))
    report(verb, *JSON)
    events = EventAccumulator("out")
    events.Reload()
    shown = events.Tags()
    assert shown["images"] == ["lengths/read"]
    assert sorted(shown["histograms"]) == [f"lengths_read/{split}" for split in ("test", "train", "validation")]
    (histogram,) = events.Histograms("lengths_read/train")
    value = histogram.histogram_value
    assert (value.num, value.sum, value.min, value.max) == (3, 12, 3, 5)
    (image,) = events.Images("lengths/read")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    texts = [tag for tag in shown["tensors"] if tag.startswith("report/")]
    assert len(texts) == 6
    (text,) = events.Tensors("report/Lengths/text_summary")
    cells = text.tensor_proto.string_val[0].decode().splitlines()[2].replace("\\", "")
    assert cells == "| train | 3 | 3 | 3 | 4 | 5 | 5 | 5 | 5 | 4.0 | 12 |"


def test_many_labels_and_numbers(verb: Verb) -> None:
    labels = [f"label{i:02}" for i in range(30)]
    files([{"text": x, "label": x} for x in [*labels, labels[3]]], text_of("t"), text_of("t"))
    for name in ("dev", "test"):
        Path(f"{name}.jsonl").write_text(json.dumps({"text": "t", "label": labels[29]}))
    found, out = report(verb, *JSON, "task=classification")
    assert len(found["labels"]["splits"]["train"]["counts"]) == 30
    shown = [line.split()[0] for line in out.splitlines() if line.split() and "label" in line.split()[0]]
    assert shown[:20] == ["label03", *labels[:3], *labels[4:20]]
    assert lines_of(out, "10") == [["10", "others", "10", "32.3", "%", "1", "100.0", "%", "1", "100.0", "%"]]
    assert "and 9 more" in out

    files([{"text": "a", "label": 1}, {"text": "b", "label": 3}], *[[{"text": "c", "label": 6}]] * 2)
    code, out, err = verb("report", *JSON, "task=classification", "form.answer=number", "output_dir=n")
    assert code == 0, err
    found = json.loads(Path("n/report.json").read_text())
    assert (found["numbers"]["train"]["rmse_of_mean"], found["numbers"]["test"]["rmse_of_mean"]) == (1.0, 4.0)
    assert "labels" not in found


def test_a_report_has_a_folder_of_its_own_and_no_model_is_built(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqlab import bundle

    monkeypatch.setattr(bundle, "build", None)
    words = ["data=text", f"data.path={CORPUS / 'train.txt'}", "tokenizer.vocab_size=400"]
    code, out, err = verb("report", *words)
    assert code == 0, err
    (folder,) = Path("runs/report-text").iterdir()
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"report", "lengths-read", "events"}
    assert f"tensorboard --logdir {folder}" in out
    code, out, err = verb("report", *words, "-m", "tokenizer=bytes,characters", "name=both")
    assert code == 2  # vocab_size is byte pairs'
    code, out, err = verb("report", *words[:2], "-m", "tokenizer=bytes,words", "name=both")
    assert code == 0, err
    found = [json.loads(path.read_text()) for path in sorted(Path("runs/both").glob("*/*/report.json"))]
    sizes = [part["vocabulary"]["read"]["size"] for part in found]
    assert (sizes[0], len(sizes)) == (257, 2)
    assert found[1]["vocabulary"]["read"]["splits"]["test"]["unknown"] is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.path=nowhere.jsonl"], "nowhere.jsonl matches no file"),
        (["batch.tokns=3"], "batch.tokens"),
        (["batch.max_length=4", "batch.over_long=error"], "the limit is 4 (1 of 2"),
        (["batch.tokens=4", "batch.over_long=tear"], "over_long=tear"),
        (["output_dir=full"], "output_dir=full is not empty"),
        (["tokenizer=words", "tokenizer.vocab_size=2"], "tokenizer.vocab_size=2 is too small"),
    ],
)
def test_what_training_would_refuse_is_refused(verb: Verb, words: list[str], told: str) -> None:
    files(text_of("abc", "abcdefgh"), text_of("a"), text_of("b"))
    Path("full").mkdir()
    Path("full/mine.txt").write_text("kept")
    given = {word.partition("=")[0] for word in words}
    code, _, err = verb("report", *(word for word in JSON if word.partition("=")[0] not in given), *words)
    assert code == 2
    assert told in err
    assert not list(Path().glob("runs/*/*"))
    assert [path.name for path in Path("full").iterdir()] == ["mine.txt"]


def test_a_bad_line_is_refused_by_its_number(verb: Verb) -> None:
    files([*text_of("a"), "{broken"], text_of("a"), text_of("b"))
    code, _, err = verb("report", *JSON, "output_dir=out")
    assert code == 2
    assert "train.jsonl, line 2: not JSON" in err
    assert not Path("out").exists()


def test_a_stream_has_batches_of_its_own(verb: Verb) -> None:
    files(text_of("abcdefghij", "k"), text_of("ab"), text_of("abc"))
    found, out = report(verb, *JSON, "task=stream_language_modeling", "form.lanes=2", "form.window=3")
    assert {key: found["batch"][key] for key in ("tokens", "max_length")} == {"tokens": 6, "max_length": None}
    assert found["rows"]["train"]["over_long_rows"] == 0
    assert "over-long: none, in a stream" in out
    # 13 tokens in lanes of 6 and 7: windows of 3 and 3, 3 and 3, 0 and 1.
    assert found["batches"]["train"] == {
        "batches": 3,
        "tokens": {"mean": 13 / 3, "min": 1, "max": 6},
        "sequences": {"mean": 2.0, "min": 2, "max": 2},
        "fill": pytest.approx(13 / 18),
    }
    assert found["padding"]["train"]["ours"]["cells"] == 14
