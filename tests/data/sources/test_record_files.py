"""What all sources of files share, and real data where it lies at hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from seqlab.config.compose import check, first_job
from seqlab.config.instantiate import instantiate, mistakes
from seqlab.data.records import Columns
from seqlab.data.rejects import Rejects
from seqlab.data.sources.conll import ConllFiles, ConlluFiles
from seqlab.data.sources.csv import CsvFiles
from seqlab.data.sources.json import JsonFiles
from seqlab.data.sources.parallel import ParallelFiles
from seqlab.data.sources.source import SPLITS, Source
from seqlab.data.sources.text import TextFiles
from seqlab.errors import InputError

REAL = Path(os.environ.get("SEQLAB_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def test_the_fingerprint_follows_bytes_and_settings(tmp_path: Path) -> None:
    for name, content in (("a", "text,label\na,1\n"), ("b", "text,label\na,2\n")):
        (tmp_path / name).write_text(content)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    csv = CsvFiles(a)
    different: list[Source] = [
        csv, CsvFiles(b), CsvFiles(a, validation=a), CsvFiles(a, test=a), CsvFiles(a, columns=Columns(text="text")),
        CsvFiles(a, on_error="skip"), CsvFiles(a, max_rejected=0.5), CsvFiles(a, header=False), JsonFiles(a),
        ParallelFiles(a, b), ParallelFiles(b, a), ParallelFiles(a, b, (a, b)), ParallelFiles(a, b, on_error="skip"),
    ]  # fmt: skip
    prints = [source.fingerprint() for source in different]
    assert len(set(prints)) == len(prints)
    (tmp_path / "copy").write_bytes((tmp_path / "a").read_bytes())
    assert replace(csv, path=str(tmp_path / "copy")).fingerprint() == csv.fingerprint()


@pytest.mark.parametrize("knobs", [{"on_error": "ignore"}, {"header": "no"}, {"path": 1}, {"max_rejected": "x"}])
def test_settings_of_a_base_are_checked_too(knobs: dict[str, Any]) -> None:
    node = {"_target_": "seqlab.data.sources.csv.CsvFiles", "path": "a.csv"}
    assert mistakes(node, "data") == []
    (mistake,) = mistakes({**node, **knobs}, "data")
    assert mistake.startswith(f"data.{next(iter(knobs))}: expected ")


def test_settings_as_they_are_typed() -> None:
    def typed(*words: str) -> Source:
        check(list(words), "train", None, sweep=False, complete=True)
        config = OmegaConf.to_container(first_job(list(words), "train", None).data)
        assert isinstance(config, dict)
        return instantiate(config, "data")

    assert typed("data=csv", "data.path=a.csv", "data.columns.text=review", "data.columns.label=stars") == CsvFiles(
        "a.csv", columns=Columns(text="review", label="stars")
    )
    assert typed(
        "data=tsv", "data.path=a", "data.header=false", "data.columns.text=0", "data.on_error=skip"
    ) == CsvFiles("a", columns=Columns(text=0), delimiter="\t", quote=None, header=False, on_error="skip")
    assert typed("data=conll", "data.path=a", "data.tags=2") == ConllFiles("a", tags=2)
    both = typed("data=parallel", "data.source=a.en", "data.target=a.de", "data.validation=[v.en,v.de]")
    assert both == ParallelFiles("a.en", "a.de", ("v.en", "v.de"))
    with pytest.raises(
        InputError, match=r"data\.columns\.lable=x: no such setting \(did you mean data\.columns\.label\?"
    ):
        typed("data=csv", "data.path=a.csv", "data.columns.lable=x")


@pytest.mark.parametrize("given", ["a.en", ["a.en"], ["a.en", "a.de", "a.fr"]])
def test_a_split_of_parallel_files_is_two(given: Any) -> None:
    node = {"_target_": "seqlab.data.sources.parallel.ParallelFiles", "source": "a.en", "target": "a.de"}
    for name in ("validation", "test"):
        with pytest.raises(InputError, match=rf"^data\.{name} needs two files: data\.{name}=\[SOURCE,TARGET\]$"):
            instantiate({**node, name: given}, "data")


def test_a_share_is_a_share() -> None:
    for source in (lambda: TextFiles("a", max_rejected=10), lambda: ParallelFiles("a", "b", max_rejected=10)):
        with pytest.raises(InputError, match=r"data\.max_rejected=10"):
            source()


def real(name: str) -> str:
    if not REAL.is_dir():
        pytest.skip(f"real data is not at {REAL}; SEQLAB_DATA names another folder")
    return str(REAL / name)


def sizes(source: Source) -> list[int]:
    rejects = Rejects()
    splits = source.read(rejects)
    assert rejects.counts == {}
    return [len(splits[split]) for split in SPLITS]


# The numbers of sentences are those that the data sets' own descriptions give.
def test_real_treebank() -> None:
    files = [real(f"ud_english_ewt/en_ewt-ud-{split}.conllu") for split in ("train", "dev", "test")]
    splits = ConlluFiles(*files).read(Rejects())
    assert [len(splits[split]) for split in SPLITS] == [12_544, 2001, 2077]
    assert len(set(splits["train"]["tags"].combine_chunks().flatten().to_pylist())) == 17  # universal parts of speech


def test_real_entities() -> None:
    names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
    assert sizes(ConllFiles(*(real(f"wnut17/{name}") for name in names))) == [3394, 1009, 1287]


def test_real_translations() -> None:
    def pair(name: str) -> tuple[str, str]:
        return real(f"multi30k/raw/{name}.en.gz"), real(f"multi30k/raw/{name}.de.gz")

    assert sizes(ParallelFiles(*pair("train"), pair("val"), pair("test_2016_flickr"))) == [29_000, 1014, 1000]


def test_real_columns_without_a_header() -> None:
    files = [real(f"cogs/{split}.tsv") for split in ("train", "dev", "test")]
    columns = Columns(source=0, target=1)
    source = CsvFiles(*files, columns=columns, delimiter="\t", quote=None, header=False)
    assert sizes(source) == [24_155, 3000, 3000]
