"""Tags that mark spans of words: where a word stands in its span, and of which type the span is.

    words    the   New      York     Times    of    Ann
    BIO      O     B-paper  I-paper  I-paper  O     B-person      begin, inside, outside (IOB2)
    IOBES    O     B-paper  I-paper  E-paper  O     S-person      and end, single

How a sequence of them is read follows from one question: does a tag CONTINUE the span of the word before? It does if
both name the same type, the earlier is B or I, and the later is I or E. Any other tag but O begins a span, an I without
a B too. So reads conlleval, the program behind most published figures (Tjong Kim Sang & De Meulder 2003), and so BIO,
IOB1, IO and IOBES are read alike; the letters of BILOU and BMES are taken for theirs. Scores and conversions are made
of that; the constraints of a CRF of that, and of which tags may open and close a well-formed span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seqlab.errors import InputError

OUTSIDE = "O"
_PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}  # also BILOU's and BMES'


class Span(NamedTuple):
    """Words start : end of a sentence; the type is "" where tags name none."""

    start: int
    end: int
    type: str


def parse(tag: str) -> tuple[str, str]:
    """(place, type): "B-person" gives ("B", "person"), "O" gives ("O", "").

    Raises:
        InputError: the tag says nothing about spans.
    """
    place, _, type = tag.partition("-")
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if place not in _PLACES:
        raise InputError(f"the tag {tag!r} marks no span: expected O, or B-, I-, E- or S- and a type, such as B-person")
    return _PLACES[place], type


def mark_spans(labels: Sequence[str]) -> bool:
    """Whether all labels are such tags, and not parts of speech, say."""
    return all(label == OUTSIDE or label.partition("-")[0] in _PLACES for label in labels)


def continues(before: str, tag: str) -> bool:
    """Whether a tag goes on with the span that the tag before it stands in."""
    (place_before, type_before), (place, type) = parse(before), parse(tag)
    return place_before in "BI" and place in "IE" and type_before == type


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one sentence, in order, read as above."""
    found: list[Span] = []
    for i, tag in enumerate(tags):
        if i and continues(tags[i - 1], tag):
            found[-1] = found[-1]._replace(end=i + 1)
        elif tag != OUTSIDE:
            found.append(Span(i, i + 1, parse(tag)[1]))
    return found


def convert(tags: Sequence[str], scheme: Literal["BIO", "IOBES"]) -> list[str]:
    """The same spans, marked by another scheme, and well-formed whatever they were."""
    marked = [OUTSIDE] * len(tags)
    for start, end, type in spans(tags):
        places = ["B", *"I" * (end - start - 1)]
        if scheme == "IOBES":
            places[-1] = "E" if end - start > 1 else "S"
        marked[start:end] = [f"{place}-{type}" if type else place for place in places]
    return marked


def places(tags: Sequence[str], scheme: Literal["BIO", "IOBES"]) -> list[str]:
    """Every tag that a scheme has for the types that some tags name."""
    types = dict.fromkeys(parse(tag)[1] for tag in tags if tag != OUTSIDE)
    letters = "BI" if scheme == "BIO" else "BIES"
    return [f"{letter}-{type}" if type else letter for type in types for letter in letters]


class TagTables(NamedTuple):
    """A set of C labels as tables by label id, for spans of a whole batch at once.

    types         the types they name, in alphabetical order
    type_C        int64, the type of each label by its number, -1 for O
    continues_CC  bool, whether a label, in the column, continues the span of the one before it, in the row
    opens_C       bool, whether a well-formed span may begin with it: B and S, or I where labels know neither
    closes_C      bool, whether a well-formed span may end with it: E and S, or B and I where labels know neither
    """

    types: tuple[str, ...]
    type_C: Tensor
    continues_CC: Tensor
    opens_C: Tensor
    closes_C: Tensor


def tables(labels: Sequence[str]) -> TagTables:
    """The tables of a set of labels.

    Raises:
        InputError: a label says nothing about spans.
    """
    parsed = [parse(label) for label in labels]
    types = tuple(sorted({type for place, type in parsed if place != OUTSIDE}))
    places = {place for place, _ in parsed}
    opening = {"B", "S"} if places & {"B", "S"} else {"I"}
    closing = {"E", "S"} if places & {"E", "S"} else {"B", "I"}
    return TagTables(
        types,
        torch.tensor([-1 if place == OUTSIDE else types.index(type) for place, type in parsed], dtype=torch.int64),
        torch.tensor([[continues(before, label) for label in labels] for before in labels], dtype=torch.bool),
        torch.tensor([place in opening for place, _ in parsed], dtype=torch.bool),
        torch.tensor([place in closing for place, _ in parsed], dtype=torch.bool),
    )


class Transitions(NamedTuple):
    """Where a well-formed sentence may go from a tag, in the row, to the next, and start and end. All bool."""

    pairs_CC: Tensor
    starts_C: Tensor
    ends_C: Tensor


def allowed_transitions(labels: Sequence[str]) -> Transitions:
    """What a CRF over these labels may answer. What it learns from must keep to it too: `convert` sees to that.

    Raises:
        InputError: a label says nothing about spans.
    """
    _, type_C, continues_CC, opens_C, closes_C = tables(labels)
    starts_C, ends_C = (type_C < 0) | opens_C, (type_C < 0) | closes_C
    return Transitions(continues_CC | (ends_C.unsqueeze(1) & starts_C), starts_C, ends_C)
