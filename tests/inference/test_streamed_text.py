"""Text told piece by piece is the text, and no piece ends within a character."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.inference.streamed_text import StreamedText, settled
from seqlab.text.tokenizer import Tokenizer
from seqlab.text.tokenizer_training import BytePairs, Bytes, Characters, Words

TEXTS = ["a fine film, an awful film", "Zoë's naïve café 日本語 😀 fine film"]
TOKENIZERS = {
    "byte pairs": BytePairs(280).train(TEXTS),
    "bytes": Bytes().train(TEXTS),
    "characters": Characters().train(TEXTS[:1]),
    "words": Words(50, 1).train(TEXTS),
}
CHARACTERS = st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])
PARTS = st.sampled_from([*TEXTS, " ", "é", "語", "👩\u200d👧", "x", "\n"]) | st.text(CHARACTERS, max_size=8)


def pieces_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    text = StreamedText(tokenizer.decode)
    return [*(text.add(token) for token in tokens), text.rest()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(PARTS, max_size=6))
def test_pieces_of_a_text_are_the_text_and_end_between_characters(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    (tokens,) = tokenizer.encode(["".join(texts)])
    pieces = pieces_of(tokenizer, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""  # nothing is held back that is whole


@pytest.mark.parametrize("name", ["byte pairs", "bytes", "words"])
@given(data=st.data())
def test_pieces_of_any_tokens_are_their_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(st.lists(st.sampled_from(["do", "n't", "stop", ".", "it"]), max_size=30))
def test_a_decoder_may_tidy_up(words: list[str]) -> None:
    def decode(tokens: Sequence[int]) -> str:
        return " ".join(words[token] for token in tokens).replace(" n't", "n't").replace(" .", ".")

    text = StreamedText(decode)
    pieces = [text.add(token) for token in range(len(words))]
    assert "".join([*pieces, text.rest()]) == decode(range(len(words)))


def test_what_a_decoder_takes_back_is_not_told_again() -> None:
    text = StreamedText(lambda tokens: "ab" if len(tokens) < 3 else "xyz")
    assert [text.add(1), text.add(1), text.add(1), text.rest()] == ["ab", "", "", "z"]


def test_a_token_costs_no_more_than_the_one_before() -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return TOKENIZERS["bytes"].decode(tokens)

    text = StreamedText(decode)
    (tokens,) = TOKENIZERS["bytes"].encode([TEXTS[1] * 20])
    for token in tokens:
        text.add(token)
    assert longest < 20


@given(st.text(max_size=9), st.binary(max_size=6))
def test_only_the_beginning_of_a_character_is_held_back(text: str, tail: bytes) -> None:
    written, told = text.encode() + tail, ""
    for n in range(len(written) + 1):
        ready = settled(written[:n].decode(errors="replace"))
        assert ready.startswith(told)
        assert len(ready) >= len(written[: max(0, n - 3)].decode(errors="ignore")) - 3
        told = ready
    assert written.decode(errors="replace").startswith(told)
