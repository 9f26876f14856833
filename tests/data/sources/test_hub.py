"""Data sets as the Hub lays them out, in a folder; what to do without a network; the YAMLs of known sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from omegaconf import OmegaConf

from seqlab.config.compose import conf_folder, first_job
from seqlab.config.instantiate import instantiate
from seqlab.data.records import Columns
from seqlab.data.rejects import Rejects
from seqlab.data.sources.hub import HubDataset, SplitNames
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError

# What the known sets look like on the Hub: the features of a row, a row, and the splits.
STRING = datasets.Value("string")
TAGS = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
TAGGED = {"id": STRING, "tokens": datasets.List(STRING), "ner_tags": TAGS}
TAGGED_ROW = {"id": "0", "tokens": ["EU", "Anna"], "ner_tags": [0, 1]}
READ_TAGGED = {"words": ["EU", "Anna"], "tags": ["O", "B-PER"]}
TREC = {
    "text": STRING,
    "coarse_label": datasets.ClassLabel(names=["ABBR", "ENTY"]),
    "fine_label": datasets.Value("int64"),
}
SENTIMENT = datasets.ClassLabel(names=["negative", "positive"])
KNOWN: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = {
    "wikitext2": ({"text": STRING}, {"text": " = A = \n"}, "train validation test", {"text": " = A = \n"}),
    "imdb": (
        {"text": STRING, "label": SENTIMENT},
        {"text": "good", "label": 1},
        "train test unsupervised",
        {"text": "good", "label": "positive"},
    ),
    "ag_news": (
        {"text": STRING, "label": datasets.ClassLabel(names=["World", "Sports"])},
        {"text": "a goal", "label": 1},
        "train test",
        {"text": "a goal", "label": "Sports"},
    ),
    "sst2": (
        {"idx": datasets.Value("int32"), "sentence": STRING, "label": SENTIMENT},
        {"idx": 0, "sentence": "bad", "label": 0},
        "train validation test",
        {"text": "bad", "label": "negative"},
    ),
    "trec": (
        TREC,
        {"text": "What ?", "coarse_label": 1, "fine_label": 3},
        "train test",
        {"text": "What ?", "label": "ENTY"},
    ),
    "conll2003": (TAGGED, TAGGED_ROW, "train validation test", READ_TAGGED),
    "wnut_17": (TAGGED, TAGGED_ROW, "train validation test", READ_TAGGED),
    "multi30k": (
        {"en": STRING, "de": STRING},
        {"en": "one", "de": "eins"},
        "train validation test",
        {"source": "one", "target": "eins"},
    ),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub cache")


def lay_out(folder: Path, features: dict[str, Any], splits: dict[str, list[dict[str, Any]]]) -> str:
    """A folder as `refs/convert/parquet` has it."""
    for split, rows in splits.items():
        (folder / "default" / split).mkdir(parents=True, exist_ok=True)
        data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        data.to_parquet(folder / "default" / split / "0000.parquet")
    return str(folder)


def test_every_known_set_is_tried() -> None:
    based = {
        path.stem
        for path in (conf_folder() / "data").glob("*.yaml")
        if "hub" in OmegaConf.load(path).get("defaults", [])
    }
    assert based == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_known_sets(name: str, tmp_path: Path) -> None:
    features, row, splits, expected = KNOWN[name]
    field = next(key for key, value in row.items() if isinstance(value, str) and features[key] is STRING)
    rows = [{**row, field: f"{i} {row[field]}"} if field != "id" else row for i in range(40)]
    held_out = {split: [row] for split in splits.split()} | {"train": [row, *rows]}
    if name == "sst2":
        held_out["test"] = [{**row, "label": -1}]  # hidden
    config = OmegaConf.to_container(first_job([f"data={name}"], "train", None).data)
    assert isinstance(config, dict)
    assert "/" in config["path"]  # an owner's: names without one are no longer served
    source = instantiate(
        {**config, "path": lay_out(tmp_path / "set", features, held_out), "name": None, "revision": None}, "data"
    )
    read = source.read(Rejects())
    assert read.keys() == set(SPLITS)
    for split in SPLITS:
        first = read[split].slice(0, 1).to_pylist()[0]
        assert first["origin"].startswith(f"{tmp_path / 'set'}, ")
        assert first.keys() - {"origin"} == expected.keys()
    found = {row["origin"]: row for split in SPLITS for row in read[split].to_pylist()}
    assert found[f"{tmp_path / 'set'}, train, row 1"].items() >= expected.items()
    assert len(found) == 41 + sum(getattr(source.splits, split) is not None for split in ("validation", "test"))


def test_blank_lines_of_wikitext(tmp_path: Path) -> None:
    lines = [{"text": ""}, {"text": " = A = \n"}, {"text": " text \n"}]
    folder = lay_out(tmp_path / "set", {"text": STRING}, dict.fromkeys(SPLITS, lines))
    config = OmegaConf.to_container(first_job(["data=wikitext2"], "train", None).data)
    assert isinstance(config, dict)
    source = instantiate({**config, "path": folder, "name": None}, "data")
    rejects = Rejects(source.on_error, source.max_rejected)
    assert {split: len(table) for split, table in source.read(rejects).items()} == dict.fromkeys(SPLITS, 2)
    assert rejects.counts == {"empty text": 3}


def test_nested_columns_hidden_labels_and_many_rows(tmp_path: Path) -> None:
    features = {"translation": datasets.Translation(languages=["en", "de"]), "label": SENTIMENT}
    rows = [{"translation": {"en": f"{i}", "de": f"d {i}"}, "label": i % 2} for i in range(2500)]
    rows[1200]["label"] = -1
    folder = lay_out(tmp_path / "set", features, {"train": rows, "test": rows[:1]})
    columns = Columns(source="translation.en", target="translation.de", label="label")
    source = HubDataset(folder, splits=SplitNames(validation="test"), columns=columns)
    with pytest.raises(InputError, match=r"set, train, row 1201: the label is null"):
        source.read(Rejects())
    rejects = Rejects("skip")
    train = source.read(rejects)["train"].to_pylist()
    assert rejects.counts == {"null label": 1}
    expected = [
        (f"{folder}, train, row {i + 1}", ("negative", "positive")[i % 2], f"{i}", f"d {i}")
        for i in range(2500)
        if i != 1200
    ]
    assert [(row["origin"], row["label"], row["source"], row["target"]) for row in train] == expected


def test_what_a_set_does_not_have(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "set", {"text": STRING}, {"train": [{"text": "a"}], "test": [{"text": "a"}]})
    for source, message in (
        (HubDataset(folder), r"data\.splits\.validation=validation: .* no such split; it has train, test; null cuts"),
        (HubDataset(folder, splits=SplitNames("tran", None)), r"data\.splits\.train=tran: .*did you mean train\?"),
        (
            HubDataset(folder, splits=SplitNames(validation="test"), columns=Columns(text="txt")),
            r'train: no "txt" \(did',
        ),
        (HubDataset(folder, "large"), r"cannot be loaded: BuilderConfig 'large' not found.*see data\.path="),
        (HubDataset(f"{folder}/nothing"), r"data\.path=.*nothing cannot be loaded: "),
    ):
        with pytest.raises(InputError, match=message):
            source.read(Rejects())
    (tmp_path / "set" / "set.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match=r"scripts are no longer supported.*data\.revision=refs/convert/parquet"):
        HubDataset(folder).read(Rejects())


def test_the_fingerprint_follows_files_and_settings(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "set", {"text": STRING}, {"train": [{"text": "a"}], "test": [{"text": "a"}]})
    before = HubDataset(folder).fingerprint()
    assert HubDataset(folder).fingerprint() == before
    assert HubDataset(folder, columns=Columns(text="text")).fingerprint() != before
    assert HubDataset(folder, on_error="skip").fingerprint() != before
    lay_out(tmp_path / "set", {"text": STRING}, {"train": [{"text": "b"}]})
    os.utime(tmp_path / "set/default/train/0000.parquet", (1, 1))
    assert HubDataset(folder).fingerprint() != before


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = (
        r"^data\.path=stanfordnlp/imdb: the Hugging Face Hub cannot be reached.*HF_HOME.*data=json with data\.path="
    )
    for use in (HubDataset("stanfordnlp/imdb").fingerprint, lambda: HubDataset("stanfordnlp/imdb").read(Rejects())):
        with pytest.raises(InputError, match=message):
            use()
