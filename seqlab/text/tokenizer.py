"""Strings to ids and back: one class around a `tokenizers.Tokenizer`, whatever it was trained or loaded as.

A sequence of text becomes its ids without marks; whoever builds a table adds `end`, the one special token, in front
and behind. Text never produces that id: a docstring that spells the mark out is encoded as the characters it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

import tokenizers

from seqlab.errors import InputError, did_you_mean

END = "<|end|>"

# A tokenizer that gives all of these back gives any text back: runs of blanks, line ends and tabs, capitals, composed
# and decomposed accents, scripts it has never seen, control and unassigned characters, and the marks that tokenizers
# themselves use for blanks, bytes and continued words.
_HARD_TEXTS = (
    "a",
    " a  b   c ",
    "\n\nA\tb\r\n c \n",
    "Don't  stop , ( it's ) \"fun\" .",
    "\u00e9 e\u0301 \ufb01 \u0130i \u00df \u2167 \uff21",
    "日本語 한국어 עברית हिन्दी",
    "😀👩\u200d👩\u200d👧",
    "\x00\x01\x7f\x85\xa0\u2028\u3000\ufeff",
    "\u0378\ue000\ufffd\U0010ffff",
    "\u2581a \u0120b <0x41> ##c</w> @@ d",
)


class Tokenizer:
    """Text to ids and back.

    Padding, truncation and post-processing of the backend are switched off, as no model here wants them.

    Args:
        backend: its ids are used as they are.
        end_token: the special token that both starts and ends a sequence.

    Raises:
        InputError: the backend has no such token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_token: str = END) -> None:
        plain = json.loads(backend.to_str()) | {"padding": None, "truncation": None, "post_processor": None}
        end = backend.token_to_id(end_token)
        if end is None:
            special = sorted(token.content for token in backend.get_added_tokens_decoder().values() if token.special)
            offer = f"its special tokens are {', '.join(special)}" if special else "it has no special tokens"
            raise InputError(
                f"the tokenizer has no token {end_token!r}{did_you_mean(end_token, special)}; {offer}; "
                "name the one that ends a text with tokenizer.end_token="
            )
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(plain))
        self._backend.add_special_tokens([end_token])
        self._backend.encode_special_tokens = True  # special tokens that occur in a text are text; not kept in the file
        self.end_token = end_token
        self.end = end

    @classmethod
    def load(cls, path: str | PathLike[str], end_token: str = END) -> Tokenizer:
        """From a tokenizer.json.

        Raises:
            InputError: the file is missing, is no tokenizer.json, or does not know the end token.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the tokenizer {path}: {error}; see tokenizer.path=") from error
        return cls.from_json(content, end_token, path)

    @classmethod
    def from_json(cls, content: bytes, end_token: str, path: str | PathLike[str]) -> Tokenizer:
        """From what a tokenizer.json holds; `path` is where it was found, for messages.

        Raises:
            InputError: it is no tokenizer.json, or does not know the end token.
        """
        try:
            backend = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing narrower
            raise InputError(
                f"{path} is not a tokenizer.json of the tokenizers library: {error}; see tokenizer.path="
            ) from error
        return cls(backend, end_token)

    def to_json(self) -> str:
        """What tokenizer.json holds; the name of the end token is not in it and must be kept beside it."""
        return self._backend.to_str()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def unknown(self) -> int | None:
        """The token that stands for words it does not know, if it has one."""
        name = json.loads(self.to_json())["model"].get("unk_token")
        return None if name is None else self._backend.token_to_id(name)

    def __len__(self) -> int:
        """V: one more than the largest id."""
        return max(self._backend.get_vocab().values()) + 1

    @cached_property
    def lossless(self) -> bool:
        """Whether decode(encode(text)) == text for any text, found by trying: bits per byte only make sense then."""
        return all(self.decode(ids) == text for text, ids in zip(_HARD_TEXTS, self._encode(_HARD_TEXTS), strict=True))

    @cached_property
    def widest(self) -> int | None:
        """The most characters that a token stands for; None where that may be any number."""
        return (
            max(len(token) for token in self._backend.get_vocab() if token != self.end_token) if self.lossless else None
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without end marks.

        Raises:
            InputError: a text is not valid Unicode, or spells out an end token that this tokenizer, one given by the
                user, cannot write in any other way.
        """
        rows = self._encode(texts)
        for number, ids in enumerate(rows):
            if self.end in ids:
                raise InputError(
                    f"text {number} contains {self.end_token!r}, which this tokenizer can only encode as the end of a "
                    "text: remove it there, or choose another tokenizer.end_token="
                )
        return rows

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:
            require_unicode(texts)
            raise

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; special tokens are left out, bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


def require_unicode(texts: Iterable[str]) -> None:
    """Refuse strings with half of a surrogate pair, which Python allows and no encoding does.

    Raises:
        InputError: names the text and the character.
    """
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {number} is not valid Unicode: character {error.start} is U+{ord(text[error.start]):04X}, half "
                "of a surrogate pair; remove or replace it"
            ) from None
