"""A predictor that answers as servers do that know no ragged batches: a batch is a block, and padding is masked.

It has the weights, kernels and products of seqlab's own, on N * L tokens instead of those that are there: the measure
of what padding costs, and of nothing else. Its answers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seqlab.errors import InputError
from seqlab.exporting.adapters.tensors import padded_batch
from seqlab.exporting.padded import to_padded
from seqlab.inference.predictor import Predictor, Request
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.models.classifier import Classifier
from seqlab.models.encoders import RecurrentEncoder, TransformerEncoder


class Padded(Predictor):
    """A predictor of classifiers that answers all requests of a call as one padded block."""

    @cached_property
    def padded_model(self) -> Any:
        """The model in the form that reads blocks."""
        return to_padded(self.task.model)

    def answers(self, requests: Sequence[Request], *rest: Any) -> list[dict[str, Any]]:
        if not requests:
            return []
        tokens = self.batch(requests).tokens
        ids_NL, mask_NL = padded_batch(tokens, at_least=1)
        model = self.padded_model
        with torch.no_grad():
            said = model.answer(pooled(model, ids_NL * mask_NL, tokens.lengths)).cpu()
        return [
            self.preprocessor.format_prediction(one, each.record, self.vocabularies)
            for each, one in zip(requests, said, strict=True)
        ]


def pooled(model: Any, ids_NL: Tensor, lengths: Tensor) -> Tensor:
    """A vector per sequence [N, D], for the head; what stands in the padding does not matter.

    Raises:
        InputError: there is no padded form of such a model here.
    """
    match model:
        case Classifier(encoder=TransformerEncoder()):
            vectors: Tensor = model.core(ids_NL, lengths)[0]
            return vectors
        case Classifier(encoder=RecurrentEncoder(stack=RecurrentStack() as stack) as encoder):
            hidden_NLD = unrolled(stack, encoder.embedding.core(ids_NL, None), lengths)
            return model.pooling.core(hidden_NLD, lengths)
    raise InputError("the padded peer is a classifier, recurrent or a Transformer: choose another run=, or model=lstm")


def unrolled(stack: RecurrentStack, x_NLD: Tensor, lengths: Tensor) -> Tensor:
    """[N, L, D] to [N, L, H], as cells read that know nothing of lengths: every step has all N rows, and what is read
    from its end is turned inside its own length, read, and turned back."""
    count, length = x_NLD.shape[:2]
    place_L1, row_N = torch.arange(length).unsqueeze(1), torch.arange(count)
    turned_LN = torch.where(place_L1 < lengths, lengths - 1 - place_L1, place_L1)
    turned = (turned_LN * count + row_N).flatten()  # of rows in time-major order; twice, it is as if nothing had been
    full = torch.full((count,), length)
    y = x_NLD.transpose(0, 1).flatten(0, 1)
    layers: Any = stack.layers
    for layer in layers:
        x, outputs = y, []
        for recurrence in layer:
            read = x[turned] if recurrence.reverse else x
            output, _ = recurrence.cell.unroll(read, full, recurrence.cell.initial_state(count), False)
            outputs.append(output[turned] if recurrence.reverse else output)
        y = torch.cat(outputs, 1)
        if stack.residual and y.shape == x.shape:
            y = y + x
    return y.unflatten(0, (length, count)).transpose(0, 1)
