"""A small untrained model of every kind, as a bundle, with weights far enough from zero to tell sequences apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from my_module import MyCell
from seqlab.bundle import Bundle
from seqlab.data.batch import Batch
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.layers.positions import LearnedPositions, RotaryPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell, TanhCell
from seqlab.layers.recurrent.minimal import MinGRUCell, MinLSTMCell
from seqlab.layers.word_vectors import WordVectors
from seqlab.models.classifier import Classifier
from seqlab.models.encoders import Encoder, RecurrentEncoder, TransformerEncoder, UniversalEncoder
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger
from seqlab.tasks.task import StepOutput, Task
from seqlab.text.tags import allowed_transitions
from seqlab.text.tokenizer_training import Characters
from seqlab.text.vocabularies import Vocabularies

LONGEST = 12
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
VOCABULARIES = Vocabularies(Characters().train(["abcdefgh"]), labels=LABELS, words=("ab", "cd", "ef"))
V = len(VOCABULARIES.tokenizer)

KNOWN_PLACES = partial(LearnedPositions, max_length=64)  # of tokens: none beyond, and each has its own
CELLS = {"lstm": LSTMCell, "gru": GRUCell, "tanh": TanhCell, "mingru": MinGRUCell, "minlstm": MinLSTMCell, "my": MyCell}
ENCODERS: dict[str, Callable[[bool], Encoder]] = {
    **{
        name: partial(lambda cell, causal: RecurrentEncoder(V, cell, 8, 2, causal, dropout=0.5), cell)
        for name, cell in CELLS.items()
    },
    "transformer": lambda causal: TransformerEncoder(V, RotaryPositions, 8, 2, 2, causal=causal),
    "learned": lambda causal: TransformerEncoder(V, KNOWN_PLACES, 8, 2, 2, causal=causal, kv_heads=1),
    "universal": lambda causal: UniversalEncoder(V, RotaryPositions, 8, 2, causal=causal),
}
MODELS: dict[str, Callable[[Callable[[bool], Encoder]], nn.Module]] = {
    "classes": lambda make: Classifier(make(False), 3, "one"),
    "sets of classes": lambda make: Classifier(make(False), 3, "many", pooling="attention"),
    "numbers": lambda make: Classifier(make(True), None, "number", pooling="last"),
    "tags by a CRF": lambda make: Tagger(make(False), len(LABELS), allowed=allowed_transitions(LABELS)),
    "tags of spelled words": lambda make: Tagger(
        make(False), len(LABELS), "softmax", word_vectors=partial(WordVectors, cell=GRUCell, word_vocabulary=4)
    ),
    "language": lambda make: LanguageModel(make(True), V),
    "masks": lambda make: MaskedLanguageModel(make(False), V),
    "pairs": lambda make: Seq2Seq(make(False), V, V),
    "pairs without attention": lambda make: Seq2Seq(make(False), V, V, attention=False),
}


class Exported(Task):
    """A task of which only the model is read."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def max_length(self) -> int | None:
        return self.model.max_length

    def counts(self, batch: Batch) -> dict[str, int]:
        raise NotImplementedError

    def step(self, batch: Batch) -> StepOutput:
        raise NotImplementedError

    def flops(self, batch: Batch) -> float:
        raise NotImplementedError

    def predict(self, batch: Batch, decoding: object = None, seed: int = 0) -> list[Any]:
        raise NotImplementedError


def tiny_bundle(task: str, encoder: str) -> Bundle:
    """Of that kind of model, on that encoder."""
    torch.manual_seed(0)
    model = MODELS[task](ENCODERS[encoder]).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)

    return Bundle(Exported(model), LanguageModelingPreprocessor(), VOCABULARIES, None, None, LONGEST)
