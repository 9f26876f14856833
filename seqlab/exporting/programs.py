"""What of a trained model goes into graphs (torch.export, AOTInductor, ONNX): modules on plain blocks of one shape.

A graph holds no ragged batch. So a model is called by blocks, of two kinds:

    equal    tokens [N, L], all of one length: nothing is computed in vain (seqlab/exporting/equal_lengths.py)
    padded   ids [N, L] with mask [N, L], not 0 where there is a token; each sequence begins its row, which padding ends

Each kind of model has the programs it needs; models that write read by `padded` or `encode` and go on by `step`, which
gets the state, a list of tensors, as it came. Here, and only here, something is computed on padding. N and L are at
least 1; a sequence of `padded` may be empty.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from seqlab.exporting.requirements import UnsuitedError
from seqlab.layers.pooling import LastPooling
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.universal import UniversalTransformer
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.ragged import IGNORED


@dataclass(frozen=True)
class Program:
    """A module to be exported.

    name      its signature: equal, padded, encode or step
    inputs    by name an example of each; lists of tensors come last, and the module gets theirs as `*rest`
    sizes     of each input the names of its axes that may have any size; of a list, of each tensor in it
    outputs   their names
    most      how long a sequence may be; None: any
    """

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    sizes: dict[str, Any]
    outputs: list[str]
    most: int | None

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    @property
    def dynamic_shapes(self) -> dict[str, Any]:
        """As `torch.export` wants them."""
        dims: dict[str, Any] = {}

        def shape(axes: tuple[str, ...]) -> dict[int, Any]:
            limit = {"max": self.most} if self.most is not None else {}
            for axis in axes:
                dims.setdefault(axis, Dim(axis, min=1, **(limit if axis == "length" else {})))
            return {place: dims[axis] for place, axis in enumerate(axes)}

        plain = {name: shape(axes) for name, axes in self.sizes.items() if not isinstance(axes, list)}
        rest = [shape(axes) for listed in self.sizes.values() if isinstance(listed, list) for axes in listed]
        return {**plain, "rest": tuple(rest)} if rest else plain

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Every tensor of its own: two inputs that are one tensor would silently be one in the graph."""
        plain: list[Tensor] = []
        for given in self.inputs.values():
            plain += given if isinstance(given, list) else [given]
        return tuple(tensor.clone() for tensor in plain)

    @property
    def input_names(self) -> list[str]:
        """Of every tensor."""
        names: list[str] = []
        for name, given in self.inputs.items():
            names += [f"{name}_{i}" for i in range(len(given))] if isinstance(given, list) else [name]
        return names

    @property
    def signature(self) -> dict[str, list[str]]:
        """The names of what goes in, and of what comes out."""
        return {"inputs": self.input_names, "outputs": self.outputs}


def programs(model: nn.Module) -> list[Program]:
    """What there is to export of a model; of copies, which record no gradients.

    Raises:
        UnsuitedError: the model cannot stand in a graph.
    """
    if any(isinstance(module, UniversalTransformer) for module in model.modules()):
        raise UnsuitedError(
            "a universal Transformer has no graph: how many rounds a token runs depends on the data; set "
            "format=torchscript, or train model=transformer"
        )
    model = copy.deepcopy(model)
    ids, mask = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5, dtype=torch.int64)
    plain, block = {"tokens": ids}, {"ids": ids, "mask": mask}
    sizes = dict.fromkeys(("tokens", "ids", "mask", "starts"), ("sequences", "length"))

    def program(name: str, module: nn.Module, inputs: dict[str, Any], outputs: list[str], **more: Any) -> Program:
        # What has positions: the tokens, or the words that a tagger has made of them.
        most: Any = model.encoder.max_length if isinstance(model, Tagger) else model.max_length
        return Program(name, module, inputs, {key: {**sizes, **more}[key] for key in inputs}, outputs, most)

    match model:
        case Classifier():
            return [
                program("equal", EqualClassifier(model), plain, ["answers"]),
                program("padded", PaddedClassifier(model), block, ["answers"]),
            ]
        case MaskedLanguageModel():
            return [
                program("equal", EqualMasked(model), plain, ["scores"]),
                program("padded", PaddedMasked(model), block, ["scores"]),
            ]
        case Tagger(word_vectors=None):
            outputs = ["labels", "probabilities"]
            return [
                program("equal", EqualTagger(model), {**plain, "starts": mask}, outputs),
                program("padded", PaddedTagger(model), {**block, "starts": mask}, outputs),
            ]
        case Tagger():
            three = {name: given.unsqueeze(2).expand(-1, -1, 4).contiguous() for name, given in block.items()}
            words = {} if getattr(model.word_vectors, "weight", None) is None else {"words": ids}
            axes = {**dict.fromkeys(three, ("sequences", "length", "pieces")), "words": ("sequences", "length")}
            outputs = ["labels", "probabilities"]
            return [program("padded", PaddedWordTagger(model), {**three, **words}, outputs, **axes)]
        case LanguageModel():
            state, of_state = _state(model.encoder.stack, 3)
            outputs = ["scores", *(f"state_{i}_after" for i in range(len(state)))]
            return [
                program("equal", EqualLanguageModel(model), plain, ["scores"]),
                program("padded", PaddedLanguageModel(model), block, outputs),
                program("step", LanguageModelStep(model), {**block, "state": state}, outputs, state=of_state),
            ]
        case Seq2Seq():
            encode = Seq2SeqEncode(model)
            state, of_state = _state(model.decoder.stack, 3)
            memory, of_memory = _memory(model, 3)
            given = {"memory": memory, "state": state}
            names = [f"{name}_{i}" for name, tensors in given.items() for i in range(len(tensors))]
            after = ["scores", *(f"state_{i}_after" for i in range(len(state)))]
            write = Seq2SeqStep(model, len(memory))
            step = program("step", write, {**block, **given}, after, memory=of_memory, state=of_state)
            return [program("encode", encode, block, names), step]
    raise UnsuitedError(f"{type(model).__name__} is none of seqlab's models, and has no programs to export")


def _state(stack: Any, count: int) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    """An example of the state of a stack, and which of its axes may have any size."""
    if isinstance(stack, RecurrentStack):
        state = stack.initial_state(count)
        return state, [("sequences",)] * len(state)
    attention = stack.blocks[0].attention
    size = (count, 6, attention.kv_heads, attention.out.in_features // attention.heads)
    rows = [torch.zeros(size, dtype=attention.out.weight.dtype) for _ in range(2 * len(stack.blocks))]
    return [*rows, torch.full([count], 6)], [("sequences", "past")] * len(rows) + [("sequences",)]


def _memory(model: Seq2Seq, count: int) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    """The same of what a decoder looks at."""
    width, dtype = model.encoder.output_size, model.head.weight.dtype
    memory, _ = model.decoder.begin(torch.zeros(count, 7, width, dtype=dtype), torch.full([count], 7), [])
    return memory, [("sequences", "source")] * (len(memory) - 1) + [("sequences",)] * (len(memory) > 0)


def _read(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [N, L], some token in the place of none, and lengths [N]."""
    there = mask != 0
    return ids.masked_fill(~there, 0), there.sum(1)


def _row_major(state: list[Tensor]) -> list[Tensor]:
    """As the next program reads them: machine code looks at no strides."""
    return [tensor.contiguous() for tensor in state]


class EqualClassifier(nn.Module):
    """Tokens [N, L] to the probability of every label [N, C], or, of a model of numbers, a number [N]."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return (self.model.answer(self.model.core(tokens, None)[0]),)


class PaddedClassifier(EqualClassifier):
    """The same, padded."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return (self.model.answer(self.model.core(*_read(ids, mask))[0]),)


class EqualMasked(nn.Module):
    """Tokens [N, L], mask tokens among them, to the scores of what stands in each place [N, L, V]."""

    def __init__(self, model: MaskedLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        return (self.model.head.scores(self.model.core(tokens, None)[0]),)


class PaddedMasked(EqualMasked):
    """The same, padded; scores are 0 in the padding."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        scores_NLV = self.model.head.scores(self.model.core(*_read(ids, mask))[0])
        return (scores_NLV.masked_fill((mask == 0).unsqueeze(2), 0.0),)


class EqualTagger(nn.Module):
    """Pieces [N, L] and starts [N, L], not 0 where a word begins, as the first piece of a sentence does, to labels
    [N, L] and the probability of every label [N, L, C]. Both lie where words begin; elsewhere they are -100 and 0."""

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        return self.tags(tokens, None, torch.ones_like(tokens, dtype=torch.bool), starts)

    def tags(self, ids: Tensor, lengths: Tensor | None, there: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        """The words of a sentence are a block of their own, as wide as that of the pieces."""
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
        """[N, L]: what each piece adds to the vector of its word: the first or the last all of it, or all alike."""
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
        return self.tags(*_read(ids, mask), mask != 0, starts)


class PaddedWordTagger(nn.Module):
    """For taggers that make vectors of words: ids [N, L, P] and mask [N, L, P], the P pieces of each of L words, both
    padded at their ends, and, if words have vectors, their numbers [N, L]; to labels [N, L], which are -100 in the
    padding, and probabilities [N, L, C], which are 0 there."""

    def __init__(self, model: Tagger) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, words: Tensor | None = None) -> tuple[Tensor, ...]:
        count, length = ids.shape[:2]
        # One word more, of no pieces: torch compares sentences with words, and binds the graph to what it finds. It is
        # not read: there may be no position for it.
        ids, mask = F.pad(ids, (0, 0, 0, 1)), F.pad(mask, (0, 0, 0, 1))
        words = None if words is None else F.pad(words, (0, 1))
        pieces, lengths_W = _read(ids.flatten(0, 1), mask.flatten(0, 1))
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


class EqualLanguageModel(nn.Module):
    """Tokens [N, L] to the scores [N, V], before the softmax, of the token that follows each sequence."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.last = LastPooling()

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        hidden_NLD = self.model.encoder.core(tokens, None, None)[0]
        return (self.model.head.scores(self.last.core(hidden_NLD, None)),)


class PaddedLanguageModel(EqualLanguageModel):
    """The same, padded, and the state after each sequence."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.go_on(ids, mask, None)

    def go_on(self, ids: Tensor, mask: Tensor, state: list[Tensor] | None) -> tuple[Tensor, ...]:
        tokens, lengths = _read(ids, mask)
        hidden_NLD, after = self.model.encoder.core(tokens, lengths, state)
        return self.model.head.scores(self.last.core(hidden_NLD, lengths)), *_row_major(after)


class LanguageModelStep(PaddedLanguageModel):
    """The next tokens [N, L] of sequences in that state to the same. Where a sequence brings no token its scores mean
    nothing, and its state stays."""

    def forward(self, ids: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.go_on(ids, mask, [*rest])


class Seq2SeqEncode(nn.Module):
    """Sources [N, L] to their memory, which stays, and to the state of their targets at the beginning."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        tokens, lengths = _read(ids, mask)
        hidden_NLD, _, last = self.model.encoder.read(tokens, lengths)
        memory, state = self.model.decoder.begin(hidden_NLD, lengths, last)
        # No output may be another, or an input.
        return tuple(tensor.clone() for tensor in _row_major(memory + state))


class Seq2SeqStep(nn.Module):
    """The next tokens [N, L] of targets, which begin with the end mark, with the memory and the state, to the scores
    [N, V] of what follows each, and the state after them. Where a target brings no token its scores mean nothing."""

    def __init__(self, model: Seq2Seq, memories: int) -> None:
        super().__init__()
        self.model = model
        self.memories = memories
        self.last = LastPooling()

    def forward(self, ids: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        tokens, lengths = _read(ids, mask)
        memory, state = [*rest[: self.memories]], [*rest[self.memories :]]
        hidden_NLD, after = self.model.decoder.core(tokens, lengths, memory, state)
        return self.model.head.scores(self.last.core(hidden_NLD, lengths)), *_row_major(after)
