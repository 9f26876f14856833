"""SCAN: commands such as "jump around left twice and walk" and the actions they stand for (Lake and Baroni 2018).

The grammar of the paper's figure 6 has 20,910 commands, and its figure 7 says what each means:

    C → S and S | S after S | S        S → V twice | V thrice | V
    V → U | U left | U right | turn left | turn right
      | U opposite left | ... | turn around right
    U → walk | look | run | jump
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from seqlab.data.sources.generated.generated_source import GeneratedSource, sizes
from seqlab.data.sources.generated.sampling import require, shuffled, stream
from seqlab.errors import InputError, did_you_mean

_PRIMITIVES = {"addprim_jump": "jump", "addprim_turn_left": "turn left"}
_SPLITS = ("simple", "length", *_PRIMITIVES)
_MOST_ACTIONS = 22  # of a training command in the length split; the others have 24 to 48


@dataclass(frozen=True)
class Scan(GeneratedSource):
    """Fields: source, the command; target, its actions. Both are words with a blank between them.

    split       "simple": 80 % to train on, 20 % to test, by seed (experiment 1; which command is where in the published
                files is by chance, so figures compare, single commands do not)
                "length": trained on commands of up to 22 actions, tested on those of 24 to 48 (experiment 2)
                "addprim_jump", "addprim_turn_left": trained on all commands without the primitive and on the primitive
                alone, repeated until it is a tenth of them, tested on all others with it (experiment 3)
                The last three are the published ones, training and validation together. Those that follow no rule, such
                as mcd1 to mcd3, must be read from their files.
    validation  the share of the different training commands that is held out, by seed; never the primitive itself
    seed        of what is left to chance

    Raises:
        InputError: no such split, or a share that leaves nothing.
    """

    split: str = "simple"
    validation: float = 0.05
    seed: int = 1

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise InputError(
                f"data.split={self.split} is not {', '.join(_SPLITS[:-1])} or {_SPLITS[-1]}"
                f"{did_you_mean(self.split, _SPLITS)}; other splits follow no rule: read their files"
            )
        require(self.validation, "validation", 0.001, 0.9)

    def make(self) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        actions = commands()
        order = shuffled(list(actions), stream("scan", self.seed))
        if self.split == "simple":
            held_out = set(order[: len(order) // 5])
        elif self.split == "length":
            held_out = {command for command in order if len(actions[command].split()) > _MOST_ACTIONS}
        else:
            held_out = {command for command in order if _PRIMITIVES[self.split] in command}
        test = [command for command in order if command in held_out]
        learned = [command for command in order if command not in held_out]
        size = round(len(learned) * self.validation)
        validation, train = learned[:size], learned[size:]
        if self.split in _PRIMITIVES:
            alone = _PRIMITIVES[self.split]
            test.remove(alone)
            train += [alone] * (len(learned) // 9)
        splits = {"train": train, "validation": validation, "test": test}
        tables = {
            name: pa.table({"source": rows, "target": [actions[command] for command in rows]})
            for name, rows in splits.items()
        }
        return tables, {"split": self.split, "examples": sizes(tables)}


def commands() -> dict[str, str]:
    """All commands and their actions, by the grammar: a phrase of every kind is made of those of the kind before."""
    turns = {side: f"I_TURN_{side.upper()}" for side in ("left", "right")}
    units = {unit: f"I_{unit.upper()}" for unit in ("walk", "look", "run", "jump")}
    verbs = dict(units)
    for side, turn in turns.items():
        for unit, action in (units | {"turn": ""}).items():
            verbs |= {
                f"{unit} {side}": f"{turn} {action}".strip(),
                f"{unit} opposite {side}": f"{turn} {turn} {action}".strip(),
                f"{unit} around {side}": " ".join([f"{turn} {action}".strip()] * 4),
            }
    phrases = verbs | {
        f"{verb} {times}": " ".join([actions] * n)
        for verb, actions in verbs.items()
        for times, n in (("twice", 2), ("thrice", 3))
    }
    both = {f"{a} and {b}": f"{phrases[a]} {phrases[b]}" for a in phrases for b in phrases}
    return phrases | both | {f"{a} after {b}": f"{phrases[b]} {phrases[a]}" for a in phrases for b in phrases}
