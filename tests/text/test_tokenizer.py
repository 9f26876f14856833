"""Text comes back as it went in; what a text says never becomes a mark; what cannot be read is refused clearly."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from seqlab.errors import InputError
from seqlab.text.tokenizer import END, Tokenizer
from seqlab.text.tokenizer_training import BytePairs, Bytes, Characters, Given, Words

TEXTS = ["the cat sat", "the cat ate  the hat", "a né café", "the end", "the cat sat on\tthe hat", "a né café"] * 3
TRAINERS = [BytePairs(300), Bytes(), Characters(), Words(50)]
LOSSLESS = [trainer.train(TEXTS) for trainer in TRAINERS[:3]]


def name(thing: object) -> str:
    return type(thing).__name__


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40) | st.text(alphabet="the cané<|>0x41\n ", max_size=40))
def test_lossless_tokenizers_give_any_text_back(text: str) -> None:
    for tokenizer in LOSSLESS:
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == text
        assert tokenizer.widest is not None
        assert len(text) <= tokenizer.widest * len(ids)
        assert all(0 <= i < len(tokenizer) and i != tokenizer.end for i in ids)


@pytest.mark.parametrize("trainer", TRAINERS, ids=name)
def test_lossless_says_so_only_where_it_holds(trainer: BytePairs) -> None:
    trained = trainer.train(TEXTS)
    assert trained.lossless == (not isinstance(trainer, Words))
    assert (trained.widest is None) == isinstance(trainer, Words)


def test_lossless_finds_a_tokenizer_that_changes_text() -> None:
    backend = tokenizers.Tokenizer.from_str(LOSSLESS[0].to_json())
    backend.normalizer = normalizers.NFC()
    assert not Tokenizer(backend).lossless
    backend.normalizer = None
    assert Tokenizer(backend).lossless


@pytest.mark.parametrize("trainer", TRAINERS, ids=name)
def test_the_end_mark_in_a_text_is_text_also_after_loading(trainer: BytePairs, tmp_path: Path) -> None:
    made = trainer.train([*TEXTS, f"how to write {END}"])
    (tmp_path / "tokenizer.json").write_text(made.to_json(), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = f"the {END} cat{END}"
    for tokenizer in (made, loaded):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.end not in ids
        if tokenizer.lossless:
            assert tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == text
    assert loaded.digest == made.digest
    assert (len(loaded), loaded.end, loaded.lossless) == (len(made), made.end, made.lossless)


@pytest.mark.parametrize("trainer", TRAINERS, ids=name)
def test_half_of_a_surrogate_pair_is_refused(trainer: BytePairs) -> None:
    with pytest.raises(InputError, match=r"text 1 .* character 2 is U\+D83D"):
        trainer.train(TEXTS).encode(["fine", "ab\ud83d"])
    if not isinstance(trainer, Bytes):
        with pytest.raises(InputError, match="surrogate"):
            trainer.train(["\ud83d"])


def test_no_text_and_no_texts() -> None:
    for tokenizer in LOSSLESS:
        assert tokenizer.encode([]) == []
        assert tokenizer.encode([""]) == [[]]
        assert tokenizer.decode([]) == ""


def foreign(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json from elsewhere, with everything on that we want off."""
    backend = tokenizers.Tokenizer.from_str(LOSSLESS[0].to_json().replace(END, "</s>"))
    backend.add_special_tokens(["<s>", "<pad>"])
    backend.enable_padding(pad_token="<pad>", length=20)
    backend.enable_truncation(3)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    backend.save(str(path))
    return backend


def test_a_given_tokenizer_neither_pads_nor_cuts_nor_adds(tmp_path: Path) -> None:
    backend = foreign(tmp_path / "given.json")
    assert len(backend.encode("the cat sat").ids) == 20
    tokenizer = Given(str(tmp_path / "given.json"), "</s>").train(["not looked at"])
    assert tokenizer.encode(["the cat sat"]) == LOSSLESS[0].encode(["the cat sat"])
    assert tokenizer.end == backend.token_to_id("</s>")
    (ids,) = tokenizer.encode(["<pad> in </s> text"])
    assert tokenizer.decode(ids) == "<pad> in </s> text"


def test_a_given_tokenizer_without_that_end_token(tmp_path: Path) -> None:
    foreign(tmp_path / "given.json")
    with pytest.raises(InputError, match=r"</s>, <pad>, <s>.*tokenizer\.end_token="):
        Given(str(tmp_path / "given.json"), "[SEP]").train([])


def test_a_given_tokenizer_that_cannot_spell_its_end_token(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "given.json"))
    tokenizer = Given(str(tmp_path / "given.json"), "</s>").train([])
    assert tokenizer.encode(["a b"]) == [[0, 2]]
    with pytest.raises(InputError, match=r"text 1 contains '</s>'"):
        tokenizer.encode(["a", "a </s> a"])


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", "not json", b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer(content: str | bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"given\.json.*tokenizer\.path="):
        Given(str(path), "</s>").train([])


def test_length_covers_the_largest_id() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 7}, unk_token="a"))
    assert len(Tokenizer(backend, "</s>")) == 8
