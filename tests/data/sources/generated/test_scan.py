"""SCAN as the grammar gives it: the published commands, meanings and splits."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from seqlab.data.rejects import Rejects
from seqlab.data.sources.generated.scan import Scan, commands
from seqlab.data.sources.source import SPLITS
from seqlab.errors import InputError

FILES = Path(os.environ.get("SEQLAB_DATA", Path(__file__).resolve().parents[5] / "shared" / "data")) / "scan"
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"the published files are not at {FILES} (SEQLAB_DATA)")

TURN = {"left": ["I_TURN_LEFT"], "right": ["I_TURN_RIGHT"]}


def meaning(words: list[str]) -> list[str]:
    """A recursive reading of a command, from its loosest word to its tightest."""
    for word in ("and", "after"):
        if word in words:
            place = words.index(word)
            first, second = meaning(words[:place]), meaning(words[place + 1 :])
            return first + second if word == "and" else second + first
    match words:
        case [*verb, "twice"]:
            return meaning(verb) * 2
        case [*verb, "thrice"]:
            return meaning(verb) * 3
        case [unit, "around", side]:
            return meaning([unit, side]) * 4
        case [unit, "opposite", side]:
            return TURN[side] + meaning([unit, side])
        case [unit, ("left" | "right") as side]:
            return TURN[side] + meaning([unit])
        case ["turn"]:
            return []
        case [unit]:
            return [f"I_{unit.upper()}"]
    raise AssertionError(words)


def rows(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True))


def published(name: str) -> Counter[tuple[str, str]]:
    with gzip.open(FILES / name, "rt") as file:
        pairs = [line.removeprefix("IN: ").rstrip("\n").split(" OUT: ") for line in file]
    return Counter((source, target) for source, target in pairs)


def test_every_command_means_what_a_recursive_reading_says() -> None:
    for command, actions in commands().items():
        assert actions.split(" ") == meaning(command.split(" ")), command


def test_the_commands_are_for_ever_the_same() -> None:
    lines = sorted(f"IN: {command} OUT: {actions}\n" for command, actions in commands().items())
    assert len(lines) == 20_910
    # Of the published tasks.txt, its lines sorted: LC_ALL=C sort tasks.txt | sha256sum
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == (
        "6be4b39bc8bf3a20be810b6991250d0493e608560609db6765dd679e1ed1c98e"
    )


@needs_files
def test_the_commands_are_the_published_ones() -> None:
    assert Counter(commands().items()) == published("tasks.txt.gz")


@needs_files
@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("length", "length_split/tasks_{}_length.txt.gz"),
        ("addprim_jump", "add_prim_split/tasks_{}_addprim_jump.txt.gz"),
        ("addprim_turn_left", "add_prim_split/tasks_{}_addprim_turn_left.txt.gz"),
    ],
)
def test_the_splits_that_follow_a_rule_are_the_published_ones(split: str, name: str) -> None:
    tables = Scan(split).read(Rejects())
    assert Counter(rows(tables["test"])) == published(name.format("test"))
    assert Counter(rows(tables["train"]) + rows(tables["validation"])) == published(name.format("train"))


@pytest.mark.parametrize(
    ("split", "learned", "different", "tested"),
    [
        ("simple", 16_728, 16_728, 4_182),
        ("length", 16_990, 16_990, 3_920),
        ("addprim_jump", 14_670, 13_204, 7_706),
        ("addprim_turn_left", 21_890, 19_702, 1_208),
    ],
)
def test_splits_share_no_command_and_have_the_published_sizes(
    split: str, learned: int, different: int, tested: int
) -> None:
    source = Scan(split, validation=0.1)
    tables = source.read(Rejects())
    train, validation, test = ([command for command, _ in rows(tables[name])] for name in SPLITS)
    assert (len(train) + len(validation), len({*train, *validation}), len(test)) == (learned, different, tested)
    assert not set(train) & set(validation)
    assert not {*train, *validation} & set(test)
    assert abs(len(validation) - different * 0.1) < 1
    assert source.metadata()["examples"] == {name: table.num_rows for name, table in tables.items()}


def test_a_primitive_is_a_tenth_of_what_is_trained_on() -> None:
    tables = Scan("addprim_jump").read(Rejects())
    train = [command for command, _ in rows(tables["train"])]
    assert train.count("jump") == 1_467
    assert not any("jump" in command and command != "jump" for command in train)
    assert all("jump" in command for command, _ in rows(tables["test"]))
    assert "jump" not in [command for command, _ in rows(tables["validation"])]


def test_chance_is_in_the_seed_alone() -> None:
    def first(source: Scan) -> list[str]:
        return source.read(Rejects())["test"]["source"].to_pylist()[:3]

    # Recorded when this was written: the simple split of seed 1 must stay what it is.
    assert first(Scan()) == [
        "walk opposite left twice and run opposite right",
        "run around left twice after run around left thrice",
        "run opposite right thrice after walk twice",
    ]
    assert first(Scan()) == first(Scan(validation=0.5))
    assert first(Scan()) != first(Scan(seed=2))
    different = [Scan(), Scan(seed=2), Scan("length"), Scan(validation=0.5)]
    assert len({source.fingerprint() for source in different}) == 4
    assert Scan().fingerprint() == Scan().fingerprint()


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match=r"data\.split=lenght is not .*did you mean length\?.*read their files"):
        Scan("lenght")
    with pytest.raises(InputError, match=r"data\.validation=0"):
        Scan(validation=0)
