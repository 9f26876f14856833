"""Every task as people meet it: a file made on the spot, trained on, evaluated, asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqlab.bundle import Bundle
from seqlab.cli.runs import config_for_evaluation
from tiny_bundles import save
from typing_words import Outcome

pytestmark = pytest.mark.usefixtures("one_sample")

FAST = [
    "model.width=24",
    "schedule.warmup_steps=2",
    "batch.tokens=600",
    "optimizer.lr=0.02",
    "trainer.eval_every=50",
    "trainer.max_epochs=null",
]


def csv_of_reviews() -> None:
    draw = random.Random(0)
    lines = ["stars,review"]
    for _ in range(300):
        good = draw.random() < 0.5
        words = draw.choices(["the", "film", "was", "a", "story"], k=draw.randint(0, 9))
        words.insert(draw.randint(0, len(words)), "fine" if good else "awful")
        lines.append(f"{'pos' if good else 'neg'},{' '.join(words)}")
    Path("reviews.csv").write_text("\n".join(lines))


def conll_of_names() -> None:
    draw = random.Random(0)
    sentences = []
    for _ in range(250):
        lines = []
        for _ in range(draw.randint(1, 6)):
            lines += draw.choice([["Ann B-PER", "Smith I-PER"], ["Rome B-LOC"], ["saw O"], ["the O"]])
        sentences.append("\n".join(lines))
    Path("names.conll").write_text("\n\n".join(sentences))


def json_of_pairs() -> None:
    draw = random.Random(0)
    with Path("pairs.jsonl").open("w") as file:
        for _ in range(400):
            letters = draw.choices("abcd", k=draw.randint(1, 4))
            file.write(json.dumps({"in": " ".join(letters), "out": " ".join(letters).upper()}) + "\n")


REVIEWS = ["task=classification", "data=csv", "data.path=reviews.csv", "data.columns.text=review", "tokenizer=words"]
REVIEWS += ["data.columns.label=stars"]
NAMES = ["task=tagging", "data=conll", "data.path=names.conll", "tokenizer=characters"]
PAIRS = ["task=seq2seq", "data=json", "data.path=pairs.jsonl", "data.columns.source=in", "data.columns.target=out"]
PAIRS += ["tokenizer=words", "task.decoding.max_tokens=9"]


def answers(verb: Callable[..., Outcome], items: list[dict[str, object]], *words: str) -> list[dict[str, object]]:
    Path("items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    code, out, err = verb("predict", "run=run", "input=items.jsonl", *words)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_classes(verb: Callable[..., Outcome]) -> None:
    csv_of_reviews()
    code, _, err = verb("train", *REVIEWS, *FAST, "trainer.max_steps=40", "output_dir=run")
    assert code == 0, err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["test"]["accuracy"] > 0.95
    assert {"macro_f1", "mcc", "ece"} < summary["test"].keys()
    assert json.loads(verb("evaluate", "run=run")[1])["accuracy"] == summary["test"]["accuracy"]
    told = answers(verb, [{"text": "the film was awful", "id": 7}, {"text": ""}, {"text": "fine"}])
    assert [told[0]["id"], told[0]["label"], told[2]["label"]] == [7, "neg", "pos"]
    assert sum(told[1]["probabilities"].values()) == pytest.approx(1)
    assert answers(verb, [{"text": "fine"}], "top_k=1")[0]["probabilities"].keys() == {"pos"}
    Path("items.jsonl").write_text('{"text": "fine", "pair": null}\n{"text": "fine", "pair": "awful"}\n')
    code, _, err = verb("predict", "run=run", "input=items.jsonl")
    assert code == 2
    assert "line 2: the model reads single texts" in err
    assert json.loads(Path("run/bundle/labels.json").read_text()) == ["neg", "pos"]


def test_long_texts_are_cut_alike_everywhere(verb: Callable[..., Outcome]) -> None:
    csv_of_reviews()
    learned = ["model=transformer", "model/positions=learned", "model.positions.max_length=4", "batch.max_length=4"]
    code, _, err = verb("train", *REVIEWS, *FAST, *learned, "trainer.max_steps=3")
    assert code == 0, err
    (run,) = Path("runs/csv-classification-transformer").iterdir()
    trained = json.loads((run / "summary.json").read_text())["test"]
    (run / "bundle").rename("run")
    code, out, err = verb("evaluate", "run=run", "split=test", "data=csv", *REVIEWS[2:4], *REVIEWS[5:])
    assert code == 0, err
    assert json.loads(out)["loss"] == pytest.approx(trained["loss"], rel=1e-6)
    long, cut = answers(verb, [{"text": "the film was awful fine fine"}, {"text": "the film was"}])
    assert long["probabilities"] == pytest.approx(cut["probabilities"])  # the end mark before it is a token too


CSV = ["data=csv", "data.path=few-?.csv", "data.columns.text=question", "data.columns.label=kind"]
LINES = ["data=parallel", "data.source=a.txt", "data.target=b.txt"]


@pytest.mark.parametrize(
    ("task", "words", "rows", "judged"),
    [
        ("classification", CSV, 8, "all of few-?.csv"),  # of which a hash would send none to the test split
        ("classification", [*CSV, "data.path=many.csv", "data.test=few-1.csv"], 4, "all of few-1.csv"),
        ("classification", [*CSV, "data.path=many.csv", "split=test"], 9, "test, as cut from many.csv"),
        ("classification", [*CSV, "data.path=many.csv", "split=train"], 83, "train, as cut from many.csv"),
        ("seq2seq", LINES, 3, "all of a.txt and b.txt"),
        ("seq2seq", [*LINES, "data.validation=[a.txt,b.txt]", "data.test=[b.txt,a.txt]"], 3, "all of b.txt and a.txt"),
        ("language_modeling", ["data=text", "data.path=a.txt"], 3, "all of a.txt"),
        ("language_modeling", ["data=dyck", "data.test=7", "data.train=20", "data.validation=5"], 7, "test of Dyck"),
    ],
)
def test_other_data_is_judged_whole_unless_a_split_is_named(
    verb: Callable[..., Outcome], task: str, words: list[str], rows: int, judged: str
) -> None:
    for name, many in (("few-1", 4), ("few-2", 4), ("many", 100)):
        lines = [f"film {i},{'good' if i % 2 else 'bad'}\n" for i in range(many)]
        Path(f"{name}.csv").write_text("question,kind\n" + "".join(lines))
    Path("a.txt").write_text("a\nb\nc\n")
    Path("b.txt").write_text("A\nB\nC\n")
    save(Path("bundle"), task)
    given = {word.partition("=")[0]: word for word in words}  # the last
    code, out, err = verb("evaluate", "run=bundle", *given.values())
    assert code == 0, err
    found = json.loads(out)
    assert (found["rows"]["rows"], found["evaluated"]) == (rows, judged)
    typed = {"data.test", "split"} & given.keys() or "data=dyck" in words
    assert found["split"] == (given.get("split", "split=test")[6:] if typed else "all")
    assert json.loads(Path(f"bundle/evaluation-{found['split']}-other-data.json").read_text()) == found


def test_of_what_a_run_was_trained_on_the_part_that_was_held_out_is_judged(verb: Callable[..., Outcome]) -> None:
    lines = [f"film {i},{'good' if i % 2 else 'bad'}\n" for i in range(100)]
    Path("many.csv").write_text("text,label\n" + "".join(lines))
    words = ["task=classification", "data=csv", "data.path=many.csv"]
    code, _, err = verb("train", *words, *FAST, "trainer.max_steps=4", "output_dir=run")
    assert code == 0, err
    code, out, err = verb("evaluate", "run=run", "data=csv", f"data.path={Path('many.csv').absolute()}")
    assert code == 0, err
    assert json.loads(out)["rows"]["rows"] < 30
    assert json.loads(out)["evaluated"].startswith("test, as cut from ")


@pytest.mark.parametrize(
    ("longest", "policy", "batch"),
    [
        (64, "truncate", {"tokens": 2048, "max_length": 64, "over_long": "truncate"}),
        (3000, "split", {"tokens": 3000, "max_length": 3000, "over_long": "split"}),
        (64, "error", {}),  # what training refused may be judged
        (None, None, {}),
    ],
)
def test_a_bundle_is_judged_in_full_batches(longest: int | None, policy: str | None, batch: dict[str, Any]) -> None:
    loaded: Any = Bundle(None, None, None, longest, policy)  # type: ignore[arg-type]
    assert config_for_evaluation(Path("none"), loaded, {"data": "any"})["batch"] == {**batch, "streaming": False}


def test_several_classes_and_numbers(verb: Callable[..., Outcome]) -> None:
    draw = random.Random(0)
    rows, numbers = [], []
    for _ in range(300):
        kinds = [kind for kind in ("war", "love") if draw.random() < 0.5]
        text = " ".join([*kinds, "film", str(draw.randrange(1000))])  # which makes texts differ
        rows.append(json.dumps({"text": text, "label": kinds}))
        numbers.append(json.dumps({"text": text, "label": len(kinds) - 0.5}))
    Path("many.jsonl").write_text("\n".join(rows))
    Path("numbers.jsonl").write_text("\n".join(numbers))
    common = ["task=classification", "data=json", "tokenizer=words", *FAST, "trainer.max_steps=40"]
    code, _, err = verb("train", *common, "form.answer=many", "data.path=many.jsonl", "output_dir=run")
    assert code == 0, err
    assert json.loads(Path("run/summary.json").read_text())["test"]["exact_match"] > 0.95
    told = answers(verb, [{"text": "war film"}, {"text": "film"}, {"text": "love war film"}])
    assert [sorted(one["label"]) for one in told] == [["war"], [], ["love", "war"]]
    code, _, err = verb("train", *common, "form.answer=number", "data.path=numbers.jsonl", "output_dir=numbers")
    assert code == 0, err
    assert json.loads(Path("numbers/summary.json").read_text())["test"]["pearson"] > 0.9


def test_what_is_never_a_number_decides_nothing(verb: Callable[..., Outcome], caplog: pytest.LogCaptureFixture) -> None:
    def figures(text: str) -> dict[str, Any]:
        return dict(json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON")))

    for split, label in (("train", "{}"), ("validation", "7"), ("test", "7")):  # of one value there is no correlation
        rows = [f'{{"text": "film {i}", "label": {label.format(i)}}}' for i in range(20)]
        Path(f"{split}.jsonl").write_text("\n".join(rows))
    words = [
        "task=classification",
        "form.answer=number",
        "data=json",
        "data.path=train.jsonl",
        "tokenizer=words",
        *FAST,
    ]
    words += ["data.validation=validation.jsonl", "data.test=test.jsonl", "trainer.max_steps=4"]
    assert verb("train", *words, "output_dir=mse")[0] == 0
    assert figures(verb("evaluate", "run=mse")[1])["pearson"] is None
    assert figures(Path("mse/summary.json").read_text())["test"]["pearson"] is None
    for chosen in ([*words, "task.monitor=pearson", "output_dir=run"], ["resume=run"]):
        code, _, err = verb("train", *chosen)
        assert code == 3
        assert err.splitlines()[-1].startswith(
            "error: pearson, which decides which checkpoint is best, was not a number"
        )
        summary = figures(Path("run/summary.json").read_text())
        assert summary["validation_final"]["mse"] > 0
        assert summary["validation_final"]["pearson"] is None
        assert [figures(line)["split"] for line in Path("run/metrics.jsonl").read_text().splitlines()][
            -1
        ] == "validation"
        assert Path("run/checkpoints/last/model.safetensors").exists()
        assert not Path("run/bundle").exists()
    assert "training goes on without it" not in caplog.text


def test_tags(verb: Callable[..., Outcome]) -> None:
    conll_of_names()
    spelled = ["word_vectors@task.model.word_vectors=spelling", "task.model.word_vectors.spelling=8", "form.words=9"]
    code, _, err = verb("train", *NAMES, *FAST, *spelled, "form.scheme=IOBES", "trainer.max_steps=40", "output_dir=run")
    assert code == 0, err
    assert json.loads(Path("run/summary.json").read_text())["test"]["f1"] > 0.95
    text, words = answers(verb, [{"text": "Ann Smith saw Rome."}, {"words": ["Rome", "saw", "Ann", "Smith"]}])
    assert text["words"] == ["Ann", "Smith", "saw", "Rome", "."]
    assert min(span.pop("probability") for one in (text, words) for span in one["spans"]) > 0.5
    assert text["spans"][:2] == [
        {"type": "PER", "words": [0, 2], "characters": [0, 9]},
        {"type": "LOC", "words": [3, 4], "characters": [14, 18]},
    ]
    assert len(text["probabilities"]) == 5
    assert words["tags"] == ["S-LOC", "O", "B-PER", "E-PER"]
    assert words["spans"] == [{"type": "LOC", "words": [0, 1]}, {"type": "PER", "words": [2, 4]}]
    code, out, err = verb("evaluate", "run=run")
    assert code == 0, err
    judged = json.loads(out)
    assert judged["dtype"] == "float32"
    assert judged["precision"] == json.loads(Path("run/summary.json").read_text())["test"]["precision"]
    code, _, err = verb("evaluate", "run=nowhere")
    assert (code, "run=nowhere is not there, seen from" in err) == (2, True)


@pytest.mark.parametrize("model", [["model=lstm"], ["model=transformer", "model.layers=1"]])
def test_pairs(verb: Callable[..., Outcome], model: list[str]) -> None:
    json_of_pairs()
    fast = [word for word in FAST if not word.startswith(("model.width", "optimizer.lr"))]
    fast += ["model.width=32", f"optimizer.lr={0.005 if len(model) > 1 else 0.02}", "model.dropout=0"]
    judged = ["task.metrics=[exact_match,bleu]", "task.bleu_tokenize=none"]
    code, _, err = verb("train", *PAIRS, *fast, *model, *judged, "trainer.max_steps=200", "output_dir=run")
    assert code == 0, err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["test"]["exact_match"] > 0.9
    greedy, by_beam = (json.loads(verb("evaluate", "run=run", *words)[1]) for words in ([], ["decoding.width=3"]))
    for found, name in ((greedy, "test"), (by_beam, "test-width-3")):  # none in the place of the other
        assert found == json.loads(Path(f"run/evaluation-{name}.json").read_text())
    assert [one["decoding_settings"]["decoding"]["width"] for one in (greedy, by_beam)] == [1, 3]
    assert greedy["decoding_settings"] == json.loads(Path("run/run.json").read_text())["decoding_settings"]
    assert greedy["dtype"] == "float32"
    assert greedy["decoding_settings"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:none|")
    assert greedy["bleu"] == summary["test"]["bleu"]
    assert by_beam["loss"] == summary["test"]["loss"]
    assert by_beam["exact_match"] > 0.9
    (told,) = answers(verb, [{"source": "a d b"}], "decoding.width=3", "decoding.n_best=2")
    assert told["target"] == "A D B"
    assert len(told["best"]) == 2
    assert told["best"][0]["score"] >= told["best"][1]["score"]
    begun = answers(verb, [{"source": "a d b", "target_prefix": prefix} for prefix in ("A D", "C", "")])
    assert [one["target"][: len(one["target_prefix"])] for one in begun] == ["A D", "C", ""]
    assert [begun[0]["target"], begun[2]["target"]] == ["A D B"] * 2


@pytest.mark.parametrize(
    ("make", "words"), [(csv_of_reviews, REVIEWS), (conll_of_names, NAMES), (json_of_pairs, PAIRS)]
)
def test_company_changes_nothing(verb: Callable[..., Outcome], make: Callable[[], None], words: list[str]) -> None:
    make()
    code, out, err = verb("check", *words, "model.width=8")
    assert code == 0, out + err
    assert out.count("same") == 4


def test_what_a_task_cannot_do_is_told(verb: Callable[..., Outcome]) -> None:
    csv_of_reviews()
    code, _, err = verb("train", *REVIEWS[:-1])
    assert (code, "label missing" in err and "data.columns.label=COLUMN" in err) == (2, True), err
    assert not Path("runs").exists()
    code, _, err = verb("train", *REVIEWS, "batch.over_long=split", "output_dir=run")
    assert (code, "batch.over_long=split is not for examples of this task: choose truncate" in err) == (2, True), err
    assert verb("train", *REVIEWS, *FAST, "trainer.max_steps=3", "output_dir=run")[0] == 0
    Path("items.jsonl").write_text('{"text": "x"}\n{"words": 3}\n')
    code, out, err = verb("predict", "run=run", "input=items.jsonl")
    assert (code, out.count("\n"), "line 2: expected an object such as" in err) == (2, 1, True), err
    code, _, err = verb("predict", "run=run", "input=items.jsonl", "decoding.width=3")
    assert (code, "decoding.width: this model does not write" in err) == (2, True), err
    code, _, err = verb("predict", "run=run", "input=items.jsonl", "decoding.width=two")
    assert code == 2, err
    code, _, err = verb("train", *REVIEWS, *FAST, "trainer.max_steps=3", "task.monitor=f2", "output_dir=f2")
    assert (code, "task.monitor=f2 is none of the metrics" in err) == (2, True), err
    code, _, err = verb(
        "train", *REVIEWS, "model=transformer", "model/positions=learned", "model.positions.max_length=4"
    )
    assert (code, "tokens, model.positions.max_length=4: raise it" in err) == (2, True), err
    expected = "expected 'one' or 'many' or 'number', got 'several'; change"
    code, _, err = verb("train", *REVIEWS, "form.answer=several")  # of which the task has copies
    assert (code, err) == (2, f"error: form.answer: {expected} form.answer=...\n")
    code, _, err = verb("train", *REVIEWS, "task.answer=several")
    assert (code, err) == (2, f"error: task.answer: {expected} task.answer=...\n")
    words = ["task=seq2seq", "data=scan", "tokenizer=words", "task.metrics=[bleu]", "output_dir=other"]
    code, _, err = verb("train", *words)
    assert (code, "its tokenizer loses some: choose tokenizer@form.target_tokenizer=bpe" in err) == (2, True), err
    code, _, err = verb("train", "task=seq2seq", "data=scan", "task.metrics=[blue]", "output_dir=other")
    assert (code, "task.metrics=blue is no metric of this task" in err and "did you mean bleu" in err) == (2, True), err
