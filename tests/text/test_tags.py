"""How tags are read as spans, written as other tags, and what may follow what."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlab.errors import InputError
from seqlab.text.tags import Span, allowed_transitions, convert, mark_spans, parse, spans

BIO = ["O", "B-a", "I-a", "B-b", "I-b"]
IOBES = [*BIO, "E-a", "S-a", "E-b", "S-b"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-a I-a O B-b", [(0, 2, "a"), (3, 4, "b")]),
        ("B-a B-a I-a", [(0, 1, "a"), (1, 3, "a")]),
        ("O I-a I-a O", [(1, 3, "a")]),  # IOB1, or an error of a tagger
        ("I-a B-a I-a", [(0, 1, "a"), (1, 3, "a")]),  # IOB1: B only between neighbours of a type
        ("B-a I-b I-b", [(0, 1, "a"), (1, 3, "b")]),
        ("B-a I-a E-a S-a B-b E-b", [(0, 3, "a"), (3, 4, "a"), (4, 6, "b")]),
        ("B-a E-a I-a", [(0, 2, "a"), (2, 3, "a")]),
        ("S-a E-a E-a", [(0, 1, "a"), (1, 2, "a"), (2, 3, "a")]),
        ("B-creative-work L-creative-work U-a", [(0, 2, "creative-work"), (2, 3, "a")]),  # BILOU
        ("B M E S", [(0, 3, ""), (3, 4, "")]),  # BMES, words of a text without blanks
    ],
)
def test_spans_as_conlleval_reads_them(tags: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans(tags.split()) == [Span(*span) for span in expected]


def test_conversions_of_an_example() -> None:
    bio = ["O", "B-paper", "I-paper", "I-paper", "O", "B-person", "B-person", "I-person"]
    iobes = ["O", "B-paper", "I-paper", "E-paper", "O", "S-person", "B-person", "E-person"]
    assert convert(bio, "IOBES") == iobes
    assert convert(iobes, "BIO") == bio
    assert convert(["I-a", "I-a", "B-a", "O", "I"], "BIO") == ["B-a", "I-a", "B-a", "O", "B"]
    assert convert([], "IOBES") == []


@given(st.lists(st.sampled_from(IOBES), max_size=12))
def test_a_conversion_keeps_the_spans(tags: list[str]) -> None:
    bio, iobes = convert(tags, "BIO"), convert(tags, "IOBES")
    assert spans(bio) == spans(iobes) == spans(tags)
    assert convert(iobes, "BIO") == convert(bio, "BIO") == bio
    assert convert(bio, "IOBES") == iobes


@pytest.mark.parametrize(("labels", "scheme"), [(BIO, "BIO"), (IOBES, "IOBES")])
def test_allowed_is_what_a_conversion_leaves_as_it_is(labels: list[str], scheme: str) -> None:
    pairs_CC, starts_C, ends_C = allowed_transitions(labels)
    for length in (1, 2, 3):
        for ids in product(range(len(labels)), repeat=length):
            steps = all(pairs_CC[one, two] for one, two in pairwise(ids))
            tags = [labels[i] for i in ids]
            assert bool(starts_C[ids[0]] and ends_C[ids[-1]] and steps) == (convert(tags, scheme) == tags), tags  # type: ignore[arg-type]


def test_labels_without_a_begin_may_do_everything() -> None:
    assert all(table.all() for table in allowed_transitions(["O", "I-a", "I-b"]))
    pairs_CC, starts_C, ends_C = allowed_transitions(["O"])
    assert torch.equal(pairs_CC, torch.ones(1, 1, dtype=torch.bool))
    assert starts_C.all()
    assert ends_C.all()


def test_parts_of_speech_mark_no_spans() -> None:
    assert mark_spans(IOBES)
    assert not mark_spans(["NOUN", "VERB"])
    assert not mark_spans(["O", "B_person"])
    with pytest.raises(InputError, match="the tag 'NOUN' marks no span: expected O, or B-"):
        parse("NOUN")
    with pytest.raises(InputError, match="'O-person'"):
        parse("O-person")
