"""Language modelling of one stream: the state goes on from window to window."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqlab.data.batch import Batch
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.models.decoding import Decoding
from seqlab.models.language_model import LanguageModel
from seqlab.ragged import Ragged
from seqlab.tasks.carried_state import CarriedState
from seqlab.tasks.language_modeling import LanguageModeling
from seqlab.tasks.metrics.metric import Metric


class StreamLanguageModeling(LanguageModeling):
    """The figures of language modelling; truncated backpropagation through time (Williams & Peng 1990).

    An evaluation reads with a memory of its own, and so leaves that of training as it was.

    Args:
        model: a recurrent one.
        lanes: how many parts of the stream are read side by side.
        lossless, end, decoding, metrics: see `LanguageModeling`.

    Raises:
        ValueError: the model is not recurrent.
    """

    def __init__(
        self,
        model: LanguageModel,
        lanes: int,
        lossless: bool,
        end: int,
        decoding: Decoding,
        metrics: Sequence[str | Metric] = (),
    ) -> None:
        super().__init__(model, lossless, end, decoding, metrics)
        if not isinstance(model.encoder.stack, RecurrentStack):
            raise ValueError(
                "a stream is read by a recurrent model, whose state stays small however much it has read: set "
                "model=lstm or another, or task=language_modeling with batch.max_length and batch.over_long=split"
            )
        self.training, self.evaluation = CarriedState(lanes), CarriedState(lanes)

    @property
    def carried_state(self) -> dict[str, Tensor]:
        """The model's state after the last window of training that was read of each lane."""
        return self.training.tensors

    def encode(self, batch: Batch) -> tuple[Ragged, dict[str, Tensor]]:
        memory = self.training if self.model.training else self.evaluation
        hidden, state = self.model(batch.tokens, memory.before(batch.ids, batch.tokens.device))
        memory.after(batch.ids, state)
        return hidden, {}
