"""Tagged words, one on a line, sentences divided by blank lines: plain columns, and CoNLL-U."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqlab.data.records import Record, decoded
from seqlab.data.rejects import Rejects, Unusable
from seqlab.data.sources.files import Line, lines
from seqlab.data.sources.record_files import RecordFiles

_BEGINS_DOCUMENT = "-DOCSTART-"  # CoNLL 2003 writes it where a word would be
_COLUMNS = {"upos": 3, "xpos": 4}
_WIDTH = 10  # columns of CoNLL-U


@dataclass(frozen=True)
class TaggedFiles(RecordFiles):
    """What both formats share. The fields are `words` and `tags`."""

    @abstractmethod
    def row(self, text: str, so_far: int) -> tuple[str, str, int] | None:
        """Word, tag and number of columns of a line that follows so many words; None where it holds no word.

        Raises:
            Unusable: the line is not what the format says.
        """
        ...

    def records(self, file: Path, rejects: Rejects) -> Iterator[Record]:
        width = 0  # of the file, as its first word has it
        for sentence in _sentences(file):
            words: list[str] = []
            tags: list[str] = []
            line = sentence[0]
            try:
                for line in sentence:
                    row = self.row(decoded(line.content), len(words))
                    if row is None:
                        continue
                    width = width or row[2]
                    if row[2] != width:
                        raise Unusable("wrong number of columns", f"columns: {row[2]}, where others have {width}")
                    words.append(row[0])
                    tags.append(row[1])
            except Unusable as problem:
                if not line.ended:
                    problem = Unusable("torn last line", f"the file ends within a line: {problem.message}")
                rejects.add(f"{file}, line {line.number}", problem.reason, problem.message)
                continue
            if words:
                yield f"{file}, line {sentence[0].number}", {"words": words, "tags": tags}


@dataclass(frozen=True)
class ConllFiles(TaggedFiles):
    """Files of columns, divided by tabs where a line has any and by blanks otherwise; see `RecordFiles`.

    Lines that begin with -DOCSTART- hold no word.

    words    number of the column of words: 0 is the first, -1 the last
    tags     likewise
    comment  what begins a line that holds no word, such as "#"; None: nothing does, and "#" may begin a word
    """

    words: int = 0
    tags: int = -1
    comment: str | None = None

    def row(self, text: str, so_far: int) -> tuple[str, str, int] | None:
        if text.startswith(_BEGINS_DOCUMENT) or (self.comment and text.startswith(self.comment)):
            return None
        cells = text.split("\t") if "\t" in text else text.split()
        try:
            word, tag = range(len(cells))[self.words], range(len(cells))[self.tags]
        except IndexError:
            word = tag = 0
        if word == tag:
            asked = f"words from data.words={self.words}, tags from data.tags={self.tags}"
            raise Unusable("tags do not match words", f"a word without a tag: columns: {len(cells)}; {asked}")
        return cells[word].strip(), cells[tag].strip(), len(cells)


@dataclass(frozen=True)
class ConlluFiles(TaggedFiles):
    """CoNLL-U files (universaldependencies.org/format.html); see `RecordFiles`.

    Comments, ranges of words such as 3-4 and empty nodes such as 8.1 are skipped.

    tags  the column of the tags: "upos" or "xpos"
    """

    tags: Literal["upos", "xpos"] = "upos"

    def row(self, text: str, so_far: int) -> tuple[str, str, int] | None:
        if text.startswith("#"):
            return None
        cells = text.split("\t")
        if len(cells) != _WIDTH:
            raise Unusable("wrong number of columns", f"columns: {len(cells)}, where CoNLL-U has {_WIDTH}, with tabs")
        number, word, tag = cells[0], cells[1], cells[_COLUMNS[self.tags]]
        if "-" in number or "." in number:
            return None
        if number != str(so_far + 1):
            raise Unusable("words out of order", f"word {so_far + 1} of a sentence is numbered {number[:20]}")
        if tag == "_":
            raise Unusable("tags do not match words", f"word {number} has no {self.tags}")
        return word, tag, len(cells)


def _sentences(file: Path) -> Iterator[Sequence[Line]]:
    sentence: list[Line] = []
    for line in lines(file):
        if line.content.strip():
            sentence.append(line)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence
