"""Bundles of every task, with random weights: enough to see how they are loaded, asked and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from seqlab import bundle
from seqlab.bundle import Bundle
from seqlab.config.instantiate import instantiate
from seqlab.text.tokenizer_training import Bytes

DECODING = {"_target_": "seqlab.models.decoding.Decoding", "max_tokens": 8}
LSTM = {
    "_target_": "seqlab.models.encoders.RecurrentEncoder",
    "width": 8,
    "cell": {"_target_": "seqlab.layers.recurrent.cells.LSTMCell", "_partial_": True},
}
TRANSFORMER = {
    "_target_": "seqlab.models.encoders.TransformerEncoder",
    "width": 8,
    "heads": 2,
    "layers": 1,
    "positions": {"_target_": "seqlab.layers.positions.RotaryPositions", "_partial_": True},
}
RECORDS = {
    "text": ["a fine film", "an awful film"],
    "label": ["good", "bad"],
    "words": [["Ann", "ran"], ["Rome"]],
    "tags": [["B-PER", "O"], ["B-LOC"]],
    "source": ["a b", "c"],
    "target": ["A B", "C"],
}
# Of each task its form, its task, and its model.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "classification": (
        {"_target_": "seqlab.data.preprocessing.classification.ClassificationPreprocessor"},
        {"_target_": "seqlab.tasks.classification.Classification", "answer": "one"},
        {"_target_": "seqlab.models.classifier.Classifier", "answer": "one"},
    ),
    "tagging": (
        {"_target_": "seqlab.data.preprocessing.tagging.TaggingPreprocessor"},
        {"_target_": "seqlab.tasks.tagging.Tagging"},
        {"_target_": "seqlab.models.tagger.Tagger"},
    ),
    "seq2seq": (
        {"_target_": "seqlab.data.preprocessing.sequence_to_sequence.SequenceToSequencePreprocessor"},
        {"_target_": "seqlab.tasks.sequence_to_sequence.SequenceToSequence", "decoding": DECODING},
        {"_target_": "seqlab.models.seq2seq.Seq2Seq"},
    ),
    "masked_language_modeling": (
        {"_target_": "seqlab.data.preprocessing.masked_language_modeling.MaskedLanguageModelingPreprocessor"},
        {"_target_": "seqlab.tasks.masked_language_modeling.MaskedLanguageModeling"},
        {"_target_": "seqlab.models.masked_language_model.MaskedLanguageModel"},
    ),
    "language_modeling": (
        {"_target_": "seqlab.data.preprocessing.language_modeling.LanguageModelingPreprocessor"},
        {"_target_": "seqlab.tasks.language_modeling.LanguageModeling", "decoding": DECODING},
        {"_target_": "seqlab.models.language_model.LanguageModel"},
    ),
}


def save(folder: Path, task: str, encoder: dict[str, Any] = LSTM, fields: tuple[str, ...] = (), **options: Any) -> Path:
    """The folder, with a bundle in it, of a model with these options that was trained on records with these fields."""
    form_node, task_node, model = TASKS[task]
    encoder = {**encoder, "causal": task == "language_modeling"}
    specification = {"form": form_node, "task": {**task_node, "model": {**model, **options, "encoder": encoder}}}
    preprocessor = instantiate(form_node, "form")
    vocabularies = preprocessor.learn(pa.table({field: RECORDS[field] for field in preprocessor.fields}), Bytes())
    torch.manual_seed(1)
    built = bundle.build(specification["task"], bundle.build_context(preprocessor, vocabularies))
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.mul_(3)  # else all answers are nearly alike
    bundle.save(folder, specification, Bundle(built, preprocessor, vocabularies, fields=fields))
    return folder
