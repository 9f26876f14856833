"""What a causal model remembers of the sequences it has read so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqlab.layers.attention.cache import join
from seqlab.ragged import Layout


@dataclass(frozen=True)
class State:
    """Something of every sequence, in batch order.

    tensors  each [B, ...] with a row per sequence (a recurrence's state), or, where `lengths` is given, each
             [T', ...] with the rows of sequence after sequence, or, where `cache` is given too, each [R, ...] with
             these rows anywhere
    lengths  [B] int64 on the CPU: how many tokens of each sequence the rows belong to
    cache    used [1] and rows [T'], on the CPU; see seqlab/layers/attention/cache.py
    """

    tensors: list[Tensor]
    lengths: Tensor | None = None
    cache: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def of_cache(tensors: list[Tensor]) -> State:
        """From a cache, the list in which layers carry it."""
        *keys_and_values, used, rows, lengths = tensors
        return State(keys_and_values, lengths, (used, rows))

    def as_cache(self) -> list[Tensor]:
        """The list again."""
        assert self.lengths is not None
        assert self.cache is not None
        return [*self.tensors, *self.cache, self.lengths]

    def select(self, indices: Tensor) -> State:
        """The chosen sequences, in the order given: drops the finished, reorders and repeats beams."""
        if self.lengths is None:
            return State([tensor[indices.to(tensor.device)] for tensor in self.tensors])
        layout, rows = Layout(self.lengths).select(indices.cpu())
        if self.cache is not None:  # the rows stay where they are
            used, of_tokens = self.cache
            return State(self.tensors, layout.lengths, (used, of_tokens[rows]))
        return State([tensor[rows.to(tensor.device)] for tensor in self.tensors], layout.lengths)

    def detach(self) -> State:
        """The same state, from which no gradient flows back: what a window of a long document hands to the next, in
        backpropagation through time that is truncated there (Williams & Peng 1990)."""
        return State([tensor.detach() for tensor in self.tensors], self.lengths, self.cache)

    @staticmethod
    def cat(states: Sequence[State]) -> State:
        """The sequences of several states, in one."""
        if any(state.cache is not None for state in states):
            return State.of_cache(join([state.as_cache() for state in states]))
        tensors = [torch.cat(parts) for parts in zip(*(state.tensors for state in states), strict=True)]
        lengths = [state.lengths for state in states if state.lengths is not None]
        return State(tensors, torch.cat(lengths) if lengths else None)


@dataclass(frozen=True)
class Seq2SeqState:
    """What a decoder knows of every sequence, in batch order.

    memory  of the source: a cache that nobody adds to, so that to select sequences is to select where their rows lie;
            without attention its lengths alone
    past    of the target read so far
    """

    memory: State
    past: State

    def after(self, past: State) -> Seq2SeqState:
        """The same source, further on in the target."""
        return Seq2SeqState(self.memory, past)

    def select(self, indices: Tensor) -> Seq2SeqState:
        """See `State.select`."""
        return Seq2SeqState(self.memory.select(indices), self.past.select(indices))

    def detach(self) -> Seq2SeqState:
        """See `State.detach`."""
        return Seq2SeqState(self.memory.detach(), self.past.detach())

    @staticmethod
    def cat(states: Sequence[Seq2SeqState]) -> Seq2SeqState:
        """See `State.cat`."""
        return Seq2SeqState(State.cat([state.memory for state in states]), State.cat([state.past for state in states]))
