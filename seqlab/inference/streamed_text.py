"""Text from tokens that come one by one, told piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

WINDOW = 4  # tokens, at least, that are decoded again with those that come


class StreamedText:
    """The pieces of a text, none of which ends within a character; together they are what `decode` makes of all tokens.

    To decode everything at every token would take time as the square of the length. So only the last tokens are decoded
    again: from one on, behind which all that came before was told, and which gives the same text as in its company.

    Args:
        decode: tokens to text; U+FFFD where bytes are no character, or not one yet.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.tokens: list[int] = []
        self.told: list[str] = []
        self.start = 0  # the first token that is decoded again
        self.begin = ""  # what is told of the text from there on
        self.next = 0  # where to start some tokens later; no character lies across it

    def add(self, token: int) -> str:
        """What can be told since this token came, "" where nothing can."""
        self.tokens.append(token)
        text = self.decode(self.tokens[self.start :])
        ready = settled(text)
        piece = ready[len(self.begin) :] if ready.startswith(self.begin) else ""
        if piece:
            self.told.append(piece)
            self.begin = ready
        if self.begin == text and len(self.tokens) - self.next >= WINDOW:
            tail = self.decode(self.tokens[self.next :])
            if tail and text.endswith(tail):
                self.start, self.begin = self.next, tail
            self.next = len(self.tokens)
        return piece

    def rest(self) -> str:
        """What is left to be told when no token comes any more."""
        told, text = "".join(self.told), self.decode(self.tokens)
        if text.startswith(told):
            return text[len(told) :]
        return self.decode(self.tokens[self.start :])[len(self.begin) :]  # a decoder that changes what it has said


def settled(text: str) -> str:
    """What more bytes will not change: three at the end may be the beginning of a character."""
    unsure = min(3, len(text) - len(text.rstrip("\ufffd")))
    return text[: len(text) - unsure]
