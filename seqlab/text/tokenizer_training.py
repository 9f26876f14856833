"""Ways to get a tokenizer. `train` sees the training split only; the same texts give the same tokenizer, always."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from seqlab.errors import InputError
from seqlab.text.tokenizer import END, Tokenizer, require_unicode

# Bytes as printable characters, the way byte-level models write them; sorted, as the library returns a set's order.
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_UNKNOWN = "<unk>"


class TokenizerTrainer(ABC):
    """Makes a tokenizer from the texts of the training split."""

    @abstractmethod
    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer."""
        ...

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that is equal for trainers that make the same tokenizer from the same texts."""
        ...


@dataclass(frozen=True)
class BytePairs(TokenizerTrainer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, over bytes as in GPT-2): lossless for any text.

    vocab_size counts the 256 bytes and the end token; fewer tokens come out where no pair is left that occurs twice.
    """

    vocab_size: int = 1024

    def __post_init__(self) -> None:
        _require_size(self.vocab_size, len(_BYTES) + 1, "256 bytes and the end token")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        backend = _byte_level(models.BPE(), use_regex=True)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=2,  # a pair seen once would only memorise where it was seen
            special_tokens=[END],
            initial_alphabet=_BYTES,
            show_progress=False,
        )
        return Tokenizer(_trained(backend, trainer, texts))

    def fingerprint(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class Bytes(TokenizerTrainer):
    """The 256 bytes of UTF-8, nothing to learn: lossless, and the longest sequences."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        return Tokenizer(_byte_level(models.BPE(vocab=_numbered([END, *_BYTES]), merges=[]), use_regex=False))

    def fingerprint(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class Characters(TokenizerTrainer):
    """The characters of the training split; any other is written as its UTF-8 bytes, so that nothing is lost."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        texts = list(texts)
        require_unicode(texts)
        characters = sorted(set().union(*texts))
        vocabulary = _numbered([END, *(f"<0x{byte:02X}>" for byte in range(256)), *characters])
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        return Tokenizer(backend)

    def fingerprint(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class Words(TokenizerTrainer):
    """Whole words, the most frequent first; all others are one unknown word, <unk>. Not lossless.

    vocab_size     counts the end token and the unknown word
    min_frequency  how often a word must occur in training; at 1, the unknown word is never seen there
    split          "punctuation": runs of letters and digits, and runs of other marks; "blanks": whatever stands between
                   blanks, for text that is tokenized already, in which <unk> is the unknown word
    lowercase      Word and word are one
    """

    vocab_size: int = 20000
    min_frequency: int = 2
    split: Literal["punctuation", "blanks"] = "punctuation"
    lowercase: bool = False

    def __post_init__(self) -> None:
        _require_size(self.vocab_size, 3, "the end token, the unknown word and a word")
        if self.min_frequency < 1:
            raise InputError(f"tokenizer.min_frequency={self.min_frequency}: expected at least 1")

    def train(self, texts: Iterable[str]) -> Tokenizer:
        trainer = trainers.WordLevelTrainer(
            vocab_size=self.vocab_size - 2,
            min_frequency=self.min_frequency,
            show_progress=False,
        )
        counted = _trained(self._backend(models.WordLevel()), trainer, texts).get_vocab()
        for mark in (_UNKNOWN, END):
            counted.pop(mark, None)
        vocabulary = _numbered([END, _UNKNOWN, *sorted(counted, key=counted.__getitem__)])
        return Tokenizer(self._backend(models.WordLevel(vocabulary, unk_token=_UNKNOWN)))

    def _backend(self, model: models.Model) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(model)
        splitter = pre_tokenizers.Whitespace if self.split == "punctuation" else pre_tokenizers.WhitespaceSplit
        backend.pre_tokenizer = splitter()
        if self.lowercase:
            backend.normalizer = normalizers.Lowercase()
        return backend

    def fingerprint(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class Given(TokenizerTrainer):
    """A tokenizer.json of the user's own, used as it is; `end_token` names its token that ends a text."""

    path: str
    end_token: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        return Tokenizer.load(self.path, self.end_token)

    def fingerprint(self) -> str:
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the tokenizer {self.path}: {error}; see tokenizer.path=") from error
        return f"Given({hashlib.sha256(content).hexdigest()}, {self.end_token!r})"


def _byte_level(model: models.Model, use_regex: bool) -> tokenizers.Tokenizer:
    """`use_regex` cuts text into words first, GPT-2's way, so that no token spans a blank."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return backend


def _trained(backend: tokenizers.Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]) -> tokenizers.Tokenizer:
    texts = list(texts)
    require_unicode(texts)
    backend.train_from_iterator(texts, trainer)
    return backend


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _require_size(given: int, least: int, why: str) -> None:
    if given < least:
        raise InputError(f"tokenizer.vocab_size={given} is too small: at least {least} are needed, for {why}")
