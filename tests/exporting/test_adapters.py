"""Adapters: the ragged and the padded way of every kind of model, in company and alone, equal eager mode."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seqlab.bundle import Bundle
from seqlab.exporting.adapters.adapter import Adapter
from seqlab.exporting.adapters.lookup import ADAPTERS, adapter_of
from seqlab.exporting.formats.torchscript import scripted
from seqlab.exporting.parity import expected, random_batch
from seqlab.exporting.requirements import UnsuitedError
from typing_words import REPOSITORY
from untrained_bundles import tiny_bundle

KINDS = [
    ("numbers", "my"), ("tags by a CRF", "gru"), ("tags of spelled words", "universal"), ("language", "learned"),
    ("masks", "lstm"), ("pairs", "transformer"),
]  # fmt: skip

lengths = st.one_of(
    st.lists(st.integers(0, 6), max_size=6),
    st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda pair: [pair[1]] * pair[0]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda short: [*short, 60]),
)


@cache
def bundle_and_script(task: str, encoder: str) -> tuple[Bundle, Any]:
    bundle = tiny_bundle(task, encoder)
    return bundle, scripted(adapter_of(bundle.task.model).signature())


@pytest.mark.parametrize(("task", "encoder"), KINDS)
@settings(max_examples=10)
@given(lengths)
def test_every_way_in_equals_eager_mode(task: str, encoder: str, lengths: list[int]) -> None:
    bundle, script = bundle_and_script(task, encoder)
    model = bundle.task.model
    batch = random_batch(bundle, lengths)
    right = expected(model, batch)
    alone = [expected(model, batch.select(torch.tensor([i]))) for i in range(len(batch))]
    adapter = adapter_of(model)
    ways = (adapter.call_ragged(script, batch), adapter.call_padded(script, batch))
    for got in (*ways, adapter.call_ragged(adapter.signature(), batch)):
        assert got.keys() == right.keys()
        for name, values in right.items():
            torch.testing.assert_close(got[name], values, atol=1e-5, rtol=1e-4)
            if alone:
                torch.testing.assert_close(got[name], torch.cat([one[name] for one in alone]), atol=1e-5, rtol=1e-4)


def test_padding_may_stand_anywhere() -> None:
    _, script = bundle_and_script("tags by a CRF", "gru")
    tokens = torch.tensor([5, 6, 7, 5, 6])
    labels, probabilities = script(tokens, torch.tensor([0, 3, 3, 5]), torch.tensor([1, 0, 1, 1, 1]), None)
    ids = torch.tensor([[-1, 5, 6, -1, 7], [-1, -1, -1, -1, -1], [5, -1, 6, -1, -1]])
    starts = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    placed, chances = script.padded(ids, ids >= 0, starts, None)
    where = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]]) > 0
    assert torch.equal(placed[where], labels)
    assert torch.equal(chances[where], probabilities)
    assert placed[~where].tolist() == [-100] * 11
    assert not chances[~where].any()
    assert len(probabilities) == 4


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 4], [0, 2, 1, 3], []])
def test_offsets_that_are_none_are_refused(offsets: list[int]) -> None:
    bundle, script = bundle_and_script("numbers", "my")
    for module in (script, adapter_of(bundle.task.model).signature()):
        with pytest.raises((ValueError, torch.jit.Error), match="offsets must go from 0 to the number of tokens, 3"):
            module(torch.tensor([1, 2, 3]), torch.tensor(offsets, dtype=torch.int64))


def test_a_sentence_begins_with_a_word() -> None:
    bundle, _ = bundle_and_script("tags by a CRF", "gru")
    with pytest.raises(ValueError, match="first piece of every sentence begins a word"):
        adapter_of(bundle.task.model).signature()(
            torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]), torch.tensor([1, 0, 0])
        )


@pytest.mark.parametrize("adapter", ADAPTERS.values())
def test_the_documentation_lists_the_calls_of_every_adapter(adapter: type[Adapter]) -> None:
    page = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert f"| {adapter.kind} | {adapter.ragged_call} | {adapter.padded_call} |\n" in page


@pytest.mark.parametrize(("task", "encoder"), KINDS)
def test_a_call_names_the_arguments_of_its_method(task: str, encoder: str) -> None:
    adapter = adapter_of(tiny_bundle(task, encoder).task.model)
    signature, found = adapter.signature(), {}
    for method, names in re.findall(r"`(\w+)\(([\w, ]*)\)`", adapter.ragged_call + adapter.padded_call):
        found[method] = names.split(", ")
        assert found[method] == [*inspect.signature(getattr(signature, method)).parameters]
    assert found.keys() >= {"padded"}
    assert found.keys() & {"forward", "encode"}


def test_a_model_without_an_adapter_is_refused() -> None:
    with pytest.raises(UnsuitedError, match="Linear is none of seqlab's models"):
        adapter_of(nn.Linear(1, 1))
