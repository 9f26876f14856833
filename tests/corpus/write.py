"""Wrote the three files beside it: `python tests/corpus/write.py`. The sentences and the grammar are the project's own.

300, 40 and 40 lines, none twice, of 1 to 60 words; most are short and a few are long, as in real text.
"""

from pathlib import Path
from random import Random

NAMES = ["Zoë", "Łukasz", "Ada", "Søren", "Björk", "the miller", "an old goose", "the señora", "my neighbour", "晴子"]
VERBS = ["counts", "paints", "hides", "mends", "sells", "finds", "forgets", "carries", "praises", "weighs"]
THINGS = [
    "boats",
    "lamps",
    "green apples",
    "crêpes",
    "letters",
    "façades",
    "stones",
    "two clocks",
    "bread",
    "a kite 🪁",
]
PLACES = ["in the harbour", "under the bridge", "behind the mill", "at the café", "on the roof", "near Ålesund"]
TIMES = ["today", "at noon", "before dawn", "in winter", "every Friday", "for 3 € a day"]
LINKS = ["and", "but", "while", "because", "until", "so"]
CALLS = ["Yes.", "Why?", "Quiet!", "Naïve.", "¡Hola!", "Perhaps …", "No no no.", "Good morning.", "Enough of that."]


def clause(random: Random) -> list[str]:
    words = f"{random.choice(NAMES)} {random.choice(VERBS)} {random.choice(THINGS)}".split()
    for places_or_times in (PLACES, TIMES):
        if random.random() < 0.5:
            words += random.choice(places_or_times).split()
    return words


def line(random: Random) -> str:
    longest = min(60, int(random.lognormvariate(2.3, 0.9)) + 1)
    if longest < 4:
        return random.choice(CALLS)
    words = clause(random)
    while len(words) < longest:
        words += [random.choice(LINKS), *clause(random)]
    return " ".join(words[:longest]) + random.choice(["", ".", ".", "!"])


def main() -> None:
    random = Random(20)
    lines: dict[str, None] = {}
    while len(lines) < 380:
        lines.setdefault(line(random))
    unique = list(lines)
    random.shuffle(unique)  # the few calls would all come first
    for name, chosen in (("train", unique[:300]), ("validation", unique[300:340]), ("test", unique[340:])):
        Path(__file__).with_name(f"{name}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
