"""Everything learned from the training split that turns records into ids and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqlab.errors import InputError
from seqlab.text.tags import allowed_transitions, mark_spans
from seqlab.text.tokenizer import Tokenizer

FILES = ("tokenizer.json", "target_tokenizer.json", "labels.json", "words.json")  # all that there may be


@dataclass(frozen=True)
class Vocabularies:
    """Tokenizers, the names of labels, and known words; a model travels with its own.

    tokenizer  of what is read
    target     of what is written; None: the same
    labels     of classes or tags, in the order of their ids; None: there are none
    words      a vocabulary of whole words, in which id 0 is any other; None: there is none
    """

    tokenizer: Tokenizer
    target: Tokenizer | None = None
    labels: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None

    @property
    def written(self) -> Tokenizer:
        """The tokenizer of what is written."""
        return self.target or self.tokenizer

    @property
    def build_context(self) -> dict[str, Any]:
        """What a model is built to: the number of tokens, labels, words."""
        return {
            "vocabulary": len(self.tokenizer),
            "target_vocabulary": len(self.written),
            "one_vocabulary": self.target is None,
            "labels": None if self.labels is None else len(self.labels),
            "label_names": self.labels,
            "allowed": allowed_transitions(self.labels) if self.labels and mark_spans(self.labels) else None,
            "word_vocabulary": None if self.words is None else len(self.words) + 1,
            "lossless": self.tokenizer.lossless,
            "end": self.tokenizer.end,
            "written": self.written,
        }

    @cached_property
    def label_ids(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.labels or ())}

    @cached_property
    def word_ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words or (), start=1)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all files."""
        return hashlib.sha256(b"\0".join(self.files.values()) + repr(self.end_tokens).encode()).hexdigest()

    @property
    def end_tokens(self) -> dict[str, str]:
        """What is not in a tokenizer's file and must be kept beside it: the name of its end token, by file."""
        named = {"tokenizer.json": self.tokenizer, "target_tokenizer.json": self.target}
        return {name: tokenizer.end_token for name, tokenizer in named.items() if tokenizer is not None}

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Name and content of each file, to be read again by `from_files`."""
        files = {"tokenizer.json": self.tokenizer.to_json()}
        if self.target is not None:
            files["target_tokenizer.json"] = self.target.to_json()
        if self.labels is not None:
            files["labels.json"] = json.dumps(self.labels, ensure_ascii=False)
        if self.words is not None:
            files["words.json"] = json.dumps(self.words, ensure_ascii=False)
        return {name: text.encode() for name, text in files.items()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], end_tokens: Mapping[str, str], folder: Path) -> Vocabularies:
        """From the content of files, by name; `folder` is where they were found, for messages.

        Raises:
            InputError: one of them is missing or damaged.
        """
        if missing := [name for name in ("tokenizer.json", *end_tokens) if not (name in end_tokens and name in files)]:
            raise InputError(f"{folder} is damaged: there is no {missing[0]}, or no word of its end token")
        tokenizers = {name: Tokenizer.from_json(files[name], end, folder / name) for name, end in end_tokens.items()}
        labels, words = (_names(files.get(name), folder / name) for name in ("labels.json", "words.json"))
        return cls(tokenizers["tokenizer.json"], tokenizers.get("target_tokenizer.json"), labels, words)


def _names(content: bytes | None, file: Path) -> tuple[str, ...] | None:
    if content is None:
        return None
    try:
        names = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file} is damaged: it is no list of names")
    return tuple(names)
