"""Taggers outside seqlab: sentences in pieces to the tags of their words, and the probability of every tag.

Labels are int64, of the likeliest path where there is a CRF. `starts` is not 0 where a word begins; the first piece of
a sentence begins one. `words`, the number of each word, is only needed by a model that has a vocabulary of words. What
is padded lies where words begin; elsewhere labels are -100 and probabilities 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.exporting.adapters import tensors
from seqlab.exporting.adapters.adapter import Adapter, Outputs
from seqlab.exporting.adapters.tensors import Run
from seqlab.exporting.programs import BLOCK, Program
from seqlab.exporting.ties import as_good
from seqlab.layers.pooling import LastPooling
from seqlab.models.tagger import Tagger
from seqlab.ragged import IGNORED, Layout, Ragged, segments_of


class TaggerSignature(nn.Module):
    """The ragged and the padded way, for TorchScript."""

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model
        self.ignored = IGNORED  # TorchScript reads no globals

    def forward(
        self, tokens: Tensor, offsets: Tensor, starts: Tensor, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read starts [T] and words [W]; return labels [W] and probabilities [W, C], word after word."""
        with torch.no_grad():
            lengths = tensors.lengths_of(tokens, offsets)
            begins = (starts != 0).to("cpu")
            first = offsets.to("cpu")[:-1][lengths > 0]
            if not bool(begins[first].all()):
                raise ValueError("the first piece of every sentence begins a word: starts must not be 0 there")
            pieces_W = torch.diff(begins.nonzero().flatten(), append=torch.tensor([tokens.shape[0]]))
            word_lengths = torch.bincount(segments_of(lengths)[begins], minlength=lengths.shape[0])
            hidden_WD, _ = self.model.core(tokens, lengths, pieces_W, word_lengths, words)
            labels_W = self.model.head.decode(hidden_WD, word_lengths)
            return labels_W, self.model.head.probabilities(hidden_WD, word_lengths)

    @torch.jit.export
    def padded(self, ids: Tensor, mask: Tensor, starts: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read starts [B, L], and words [B, L] where one begins; return labels [B, L] and probabilities [B, L, C]."""
        tokens, offsets = tensors.gathered(ids, mask)
        begins = (mask != 0) & (starts != 0)
        words_W: Tensor | None = None
        if words is not None:
            words_W = words[begins]
        labels_W, probabilities_WC = self.forward(tokens, offsets, starts[mask != 0], words_W)
        labels = torch.full_like(ids, self.ignored)
        labels[begins] = labels_W
        probabilities = probabilities_WC.new_zeros([ids.shape[0], ids.shape[1], probabilities_WC.shape[1]])
        probabilities[begins] = probabilities_WC
        return labels, probabilities


class EqualTagger(nn.Module):
    """Pieces [N, L] and starts [N, L] of one length, for graphs; labels [N, L] and probabilities [N, L, C]."""

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        return self.tags(tokens, None, torch.ones_like(tokens, dtype=torch.bool), starts)

    def tags(self, ids: Tensor, lengths: Any, there: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        """Tag the words of each sentence in a block of their own, as wide as that of the pieces."""
        hidden_NLD = self.model.encoder.read(ids, lengths)[0]
        begins = there & (starts != 0)
        word_NL = (begins.long().cumsum(1) - 1).clamp(min=0)
        share_NL = self.shares(begins, there, word_NL).to(hidden_NLD.dtype).unsqueeze(2)
        words_NWD = torch.zeros_like(hidden_NLD).scatter_add(
            1, word_NL.unsqueeze(2).expand_as(hidden_NLD), hidden_NLD * share_NL
        )
        count_N = begins.sum(1)
        labels_NL = self.model.head.decode(words_NWD, count_N).gather(1, word_NL)
        probabilities_NWC = self.model.head.probabilities(words_NWD, count_N)
        where = word_NL.unsqueeze(2).expand(-1, -1, probabilities_NWC.shape[2])
        probabilities_NLC = probabilities_NWC.gather(1, where)
        return labels_NL.masked_fill(~begins, IGNORED), probabilities_NLC.masked_fill(~begins.unsqueeze(2), 0.0)

    def shares(self, begins: Tensor, there: Tensor, word_NL: Tensor) -> Tensor:
        """Return the share of each piece in the vector of its word, [N, L]: of the first, the last, or all alike."""
        pooling = self.model.pooling
        if not isinstance(pooling, LastPooling):
            ones = there.to(torch.float32)
            return ones / torch.zeros_like(ones).scatter_add(1, word_NL, ones).gather(1, word_NL).clamp(min=1)
        if pooling.backward:
            return begins
        return there & F.pad((begins | ~there)[:, 1:], (0, 1), value=True)


class PaddedTagger(EqualTagger):
    """The same, padded."""

    def forward(self, ids: Tensor, mask: Tensor, starts: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.tags(*tensors.block_of(ids, mask), mask != 0, starts)


class PaddedWordTagger(nn.Module):
    """For taggers that make vectors of words: ids [N, L, P] and mask [N, L, P], the P pieces of each of L words, both
    padded
    at their ends, and, if words have vectors, their numbers [N, L]; to labels [N, L] and probabilities [N, L, C]."""

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, words: Tensor | None = None) -> tuple[Tensor, ...]:
        count, length = ids.shape[:2]
        # One word more, of no pieces: torch compares sentences with words, and binds the graph to what it finds. It is
        # not read: there may be no position for it.
        ids, mask = F.pad(ids, (0, 0, 0, 1)), F.pad(mask, (0, 0, 0, 1))
        words = None if words is None else F.pad(words, (0, 1))
        pieces, lengths_W = tensors.block_of(ids.flatten(0, 1), mask.flatten(0, 1))
        vectors_WPD = F.embedding(pieces, self.model.encoder.embedding.weight)
        words_W = None if words is None else words.clamp(min=0).flatten()
        make = self.model.word_vectors
        assert make is not None
        vectors_NLD = make.core(vectors_WPD, lengths_W, words_W).unflatten(0, (count, length + 1))[:, :length]
        there = lengths_W.unflatten(0, (count, length + 1))[:, :length] > 0
        count_N = there.sum(1)
        hidden_NLD = self.model.encoder.read(vectors_NLD, count_N)[0]
        labels_NL = self.model.head.decode(hidden_NLD, count_N).masked_fill(~there, IGNORED)
        probabilities_NLC = self.model.head.probabilities(hidden_NLD, count_N)
        return labels_NL, probabilities_NLC.masked_fill(~there.unsqueeze(2), 0.0)


class TaggerAdapter(Adapter):
    """One row of labels and probabilities for each word."""

    kind = "tagger"
    ragged_call = "`forward(tokens, offsets, starts, words)` → labels [W], probabilities [W, C]"
    padded_call = "`padded(ids, mask, starts, words)` → [B, L] and [B, L, C], where words begin"
    outputs = ("labels", "probabilities")

    @property
    def longest(self) -> int | None:
        """The longest of what has positions: pieces, or words."""
        longest: int | None = self.model.encoder.max_length
        return longest

    def random_extras(self, context: Mapping[str, Any], layout: Layout, draw: torch.Generator) -> dict[str, Ragged]:
        pieces = [random_pieces(length, draw) for length in layout.lengths.tolist()]
        words = Layout(torch.tensor([len(row) for row in pieces], dtype=torch.int64))
        extras = {"pieces": Ragged(torch.tensor([*chain.from_iterable(pieces)], dtype=torch.int64), words)}
        if context["word_vocabulary"] is not None:
            extras["words"] = tensors.random_numbers(context["word_vocabulary"], words, draw)
        return extras

    def hidden(self, batch: Batch) -> Ragged:
        """Return the vectors of words [W, D]."""
        hidden: Ragged = self.model(batch.tokens, batch.extras["pieces"], batch.extras.get("words"))
        return hidden

    def expected(self, batch: Batch) -> Outputs:
        hidden = self.hidden(batch)
        given = (hidden.values, hidden.lengths)
        return {"labels": self.model.head.decode(*given), "probabilities": self.model.head.probabilities(*given)}

    def settled(self, got: Outputs, best: Outputs, batch: Batch, atol: float, rtol: float) -> Outputs:
        labels = got["labels"]
        if labels.shape != best["labels"].shape or torch.equal(labels, best["labels"]):
            return got
        if bool((labels < 0).any()) or bool((labels >= best["probabilities"].shape[1]).any()):
            return got
        fine = as_good(self.model.head, self.hidden(batch), labels, best["labels"], atol, rtol)
        return {**got, "labels": torch.where(fine, best["labels"], labels)}

    def signature(self) -> nn.Module:
        return TaggerSignature(self.model)

    def call_ragged(self, script: Any, batch: Batch) -> Outputs:
        words = batch.extras.get("words")
        starts, words_W = starts_of(batch).values, None if words is None else words.values
        return self.named(script(batch.tokens.values, batch.tokens.offsets, starts, words_W))

    def call_padded(self, script: Any, batch: Batch) -> Outputs:
        ids, mask = tensors.padded_batch(batch.tokens)
        starts, words = tensors.padded_batch(starts_of(batch))[0], batch.extras.get("words")
        begins = (mask != 0) & (starts != 0)
        placed = None if words is None else torch.full_like(ids, -1).masked_scatter(begins, words.values)
        return self.named(script.padded(ids, mask, starts, placed), begins)

    def named(self, found: Any, where: Tensor | None = None) -> Outputs:
        """Name the outputs, of which those `where` words begin are rows."""
        rows = found if where is None else [output[where] for output in found]
        return dict(zip(self.outputs, rows, strict=True))

    def programs(self) -> list[Program]:
        plain, block = tensors.example_block()
        outputs = [*self.outputs]
        if self.model.word_vectors is None:
            starts = block["mask"]
            return [
                self.program("equal", EqualTagger(self.model), {**plain, "starts": starts}, outputs),
                self.program("padded", PaddedTagger(self.model), {**block, "starts": starts}, outputs),
            ]
        pieces = {name: given.unsqueeze(2).expand(-1, -1, 4).contiguous() for name, given in block.items()}
        words = {} if self.model.word_vectors.weight is None else {"words": block["ids"]}
        axes = dict.fromkeys(pieces, (*BLOCK, "pieces"))
        return [self.program("padded", PaddedWordTagger(self.model), {**pieces, **words}, outputs, **axes)]

    def call_equal(self, run: Run, batch: Batch) -> Outputs:
        starts = starts_of(batch)
        found = [torch.cat(rows) for rows in tensors.in_equal_blocks(run, batch.tokens, starts, outputs=2)]
        return self.named(found, starts.values != 0)

    def call_programs(self, runs: Mapping[str, Run], batch: Batch) -> Outputs:
        if self.model.word_vectors is None:
            ids, mask = tensors.padded_batch(batch.tokens, at_least=1)
            starts, _ = tensors.padded_batch(starts_of(batch), at_least=1)
            return self.named(runs["padded"](ids, mask, starts), (mask != 0) & (starts != 0))
        pieces = batch.extras["pieces"]
        spelled = tensors.padded_batch(Ragged(batch.tokens.values, Layout(pieces.values)), at_least=1)
        of_words = (pieces.with_values(each[: len(pieces.values)]) for each in spelled)
        ids, mask = (tensors.padded_batch(each, at_least=1)[0] for each in of_words)
        mask = mask * (ids != -1)
        words = [tensors.padded_batch(batch.extras["words"], at_least=1)[0]] if "words" in batch.extras else []
        return self.named(runs["padded"](ids, mask, *words), mask.amax(2) != 0)


def starts_of(batch: Batch) -> Ragged:
    """Return 1 where a word begins, [T] int64."""
    starts = torch.zeros(batch.tokens.layout.total, dtype=torch.int64)
    starts[Layout(batch.extras["pieces"].values).offsets[:-1]] = 1
    return batch.tokens.with_values(starts)


def random_pieces(length: int, draw: torch.Generator) -> list[int]:
    """Cut so many pieces into words of 1 to 3."""
    pieces: list[int] = []
    while length > 0:
        pieces.append(min(length, int(torch.randint(1, 4, (), generator=draw))))
        length -= pieces[-1]
    return pieces
