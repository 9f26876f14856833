"""ListOps: values by an independent reading, and the shape of trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources.generated import sampling
from seqlab.data.sources.generated.listops import ListOps
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError

Tree = int | tuple[str, list[Any]]


def parse(text: str) -> Tree:
    """The tree a text stands for, by rewriting it into Python."""
    python = text.replace(" ", ",")
    for name in ("MIN", "MAX", "MED", "SM"):
        python = python.replace(f"[{name},", f"('{name}',[")
    return eval(python.replace("]", "])"))


def value(tree: Tree) -> int:
    if isinstance(tree, int):
        return tree
    name, args = tree
    digits = [value(arg) for arg in args]
    # The median as the published generator takes it: int(numpy.median(...)).
    return {
        "MIN": np.min(digits),
        "MAX": np.max(digits),
        "MED": int(np.median(digits)),
        "SM": np.sum(digits) % 10,
    }[name]


def depth(tree: Tree) -> int:
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1]))


def nodes(tree: Tree) -> list[Tree]:
    return [tree] if isinstance(tree, int) else [tree, *(node for arg in tree[1] for node in nodes(arg))]


def test_a_text_by_hand() -> None:
    assert parse("[MAX 2 [MIN 4 7 ] 0 ]") == ("MAX", [2, ("MIN", [4, 7]), 0])
    for text, expected in (
        ("7", 7),
        ("[MAX 2 [MIN 4 7 ] 0 ]", 4),
        ("[SM 9 [MED 1 2 ] 5 ]", 5),
        ("[MED 9 0 4 3 5 ]", 4),
    ):
        assert value(parse(text)) == expected


@pytest.fixture(scope="module")
def trees() -> list[tuple[Tree, str]]:
    table = ListOps(train=4_000, validation=1, test=1).read(Rejects())["train"]
    return [(parse(row["text"]), row["label"]) for row in table.to_pylist()]


def test_labels_are_the_values(trees: list[tuple[Tree, str]]) -> None:
    assert [label for _, label in trees] == [str(value(tree)) for tree, _ in trees]
    assert {label for _, label in trees} == set("0123456789")


def test_trees_are_drawn_as_described(trees: list[tuple[Tree, str]]) -> None:
    # Small trees are rarer than drawn, as none is kept twice; so judge nodes two levels below the root.
    below = [
        grandchild
        for tree, _ in trees
        if not isinstance(tree, int)
        for child in tree[1]
        if not isinstance(child, int)
        for grandchild in child[1]
    ]
    operations = [node for node in below if not isinstance(node, int)]
    assert abs(len(operations) / len(below) - 0.25) < 0.02
    for count in (2, 3, 4, 5):
        assert abs(sum(len(args) == count for _, args in operations) / len(operations) - 0.25) < 0.04
    for name in ("MIN", "MAX", "MED", "SM"):
        assert abs(sum(node[0] == name for node in operations) / len(operations) - 0.25) < 0.04
    digits = [node for node in below if isinstance(node, int)]
    assert all(abs(digits.count(digit) / len(digits) - 0.1) < 0.02 for digit in range(10))
    # Leaves at the greatest depth are digits: an operation there would make a tree of depth 21.
    assert max(depth(tree) for tree, _ in trees) == 20


def test_no_tree_twice_and_lengths_as_asked() -> None:
    sizes = {"train": 300, "validation": 20, "test": 30}
    source = ListOps(lengths=(5, 30), test_lengths=(31, 60), **sizes)
    tables = source.read(Rejects())
    texts = {split: table["text"].to_pylist() for split, table in tables.items()}
    assert source.metadata() == {"examples": sizes}
    assert {split: len(set(texts[split])) for split in SPLITS} == sizes
    assert not set(texts["train"]) & set(texts["validation"])
    for split, (least, most) in (("train", (5, 30)), ("validation", (5, 30)), ("test", (31, 60))):
        lengths = [len(text.split(" ")) for text in texts[split]]
        assert least <= min(lengths) <= max(lengths) <= most


def test_knobs_of_the_shape() -> None:
    table = ListOps(operations=1.0, max_args=3, max_depth=3, train=200, validation=1, test=1).read(Rejects())["train"]
    trees = [parse(text) for text in table["text"].to_pylist()]
    assert {depth(tree) for tree in trees} == {3}
    args = {len(node[1]) for tree in trees for node in nodes(tree) if not isinstance(node, int)}
    assert args == {2, 3}


def test_chance_is_in_the_seed_alone() -> None:
    small = {"train": 3, "validation": 1, "test": 1}
    # Recorded when this was written: what a seed gives must stay what it is.
    assert ListOps(**small).read(Rejects())["train"].to_pydict() == {
        "text": ["4", "[MAX 8 3 3 [MED 9 6 [MAX [MAX 7 [SM 8 1 9 ] 2 ] [SM 8 3 3 2 4 ] 1 ] 8 5 ] ]", "5"],
        "label": ["4", "8", "5"],
    }
    assert ListOps(**small, seed=2).read(Rejects()) != ListOps(**small).read(Rejects())
    assert len({ListOps().fingerprint(), ListOps(seed=2).fingerprint(), ListOps(max_args=4).fingerprint()}) == 3


def test_trees_that_would_never_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PATIENCE", 100)
    with pytest.raises(InputError, match=r"only 0 of 3 different examples of length 1 to 50 were found"):
        ListOps(operations=1.0, max_depth=200, lengths=(1, 50), train=1, validation=1, test=1).read(Rejects())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"operations": 1.5}, r"data\.operations=1\.5 is out of range; give 0 to 1"),
        ({"max_args": 1}, r"data\.max_args=1"),
        ({"max_depth": 1000}, r"data\.max_depth=1000"),
        ({"lengths": (9, 3)}, r"data\.lengths=\[9, 3\]"),
        ({"test_lengths": (0, 3)}, r"data\.test_lengths=\[0, 3\]"),
        ({"test": 0}, r"data\.test=0"),
    ],
)
def test_what_cannot_be(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ListOps(**knobs)
