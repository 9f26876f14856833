"""The adapter of a model: a new kind of model needs an adapter in a file of its own, and a line here."""

from __future__ import annotations

from torch import nn

from seqlab.exporting.adapters.adapter import Adapter
from seqlab.exporting.adapters.classifier import ClassifierAdapter
from seqlab.exporting.adapters.language_model import LanguageModelAdapter
from seqlab.exporting.adapters.masked_language_model import MaskedLanguageModelAdapter
from seqlab.exporting.adapters.seq2seq import Seq2SeqAdapter
from seqlab.exporting.adapters.tagger import TaggerAdapter
from seqlab.exporting.requirements import UnsuitedError
from seqlab.models.classifier import Classifier
from seqlab.models.language_model import LanguageModel
from seqlab.models.masked_language_model import MaskedLanguageModel
from seqlab.models.seq2seq import Seq2Seq
from seqlab.models.tagger import Tagger

ADAPTERS: dict[type[nn.Module], type[Adapter]] = {
    Classifier: ClassifierAdapter,
    Tagger: TaggerAdapter,
    LanguageModel: LanguageModelAdapter,
    MaskedLanguageModel: MaskedLanguageModelAdapter,
    Seq2Seq: Seq2SeqAdapter,
}


def adapter_of(model: nn.Module) -> Adapter:
    """Return the adapter of a model.

    Raises:
        UnsuitedError: there is none.
    """
    for kind in type(model).__mro__:
        if kind in ADAPTERS:
            return ADAPTERS[kind](model)
    raise UnsuitedError(f"{type(model).__name__} is none of seqlab's models, and has no adapter to be exported with")
