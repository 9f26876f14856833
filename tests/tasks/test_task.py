"""The base class of tasks: its defaults, and how a task reads its metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqlab.data.batch import Batch
from seqlab.errors import InputError
from seqlab.tasks.metrics.metric import Metric, choose_metrics, main_figure
from seqlab.tasks.task import StepOutput, Task


class Count(Metric):
    """How many are predicted."""

    main = "count"

    def tally(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor(len(predicted))

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"count": float(tally)}


class Errors(Count):
    """How many are wrong. Has no main figure, and a signature."""

    main = None
    signature = "exact"

    def tally(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return (predicted != targets).sum()

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"errors": float(tally)}

    def higher_is_better(self, figure: str) -> bool:
        return False


class Again(Count):
    """Reports what another metric reports."""


class Least(Task):
    """A task that defines no more than it must."""

    def __init__(self, *metrics: Metric) -> None:
        self.model = nn.Linear(1, 1)
        self.metrics_by_name = choose_metrics(metrics, {})

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": 1}

    def step(self, batch: Batch) -> StepOutput:
        raise NotImplementedError

    def flops(self, batch: Batch) -> float:
        return 0.0

    def predict(self, batch: Batch, decoding: object = None, seed: int = 0) -> list[Any]:
        return []


def test_defaults() -> None:
    task = Least()
    assert (task.monitor, task.decoding, task.max_length, task.max_words) == ("loss", None, None, None)
    assert (task.carried_state, task.decoding_settings, task.description) == ({}, {}, "least")
    assert task.tally(torch.ones(2), torch.ones(2)) == {}
    assert task.metrics({"loss": 0.5}, {}) == {"loss": 0.5}
    assert not task.higher_is_better("loss")
    with pytest.raises(NotImplementedError, match="Least writes nothing"):
        task.begin(None)  # type: ignore[arg-type]


def test_what_a_task_must_define() -> None:
    class Partial(Task):
        def counts(self, batch: Batch) -> dict[str, int]:
            return {}

    with pytest.raises(TypeError, match="flops, predict, step"):
        Partial()  # type: ignore[abstract]


def test_metrics_are_read_from_the_sums_of_their_tallies() -> None:
    task = Least(Count(), Errors())
    targets = torch.tensor([1, 2, 3, 4, 5])
    predicted = torch.tensor([1, 2, 0, 0, 5])
    parts = [task.tally(predicted[part], targets[part]) for part in (slice(2), slice(2, None))]
    tallies = {name: parts[0][name] + parts[1][name] for name in ("Count", "Errors")}
    assert task.metrics({"loss": 0.5}, tallies) == {"loss": 0.5, "count": 5.0, "errors": 2.0}
    assert {name: task.higher_is_better(name) for name in ("loss", "count", "errors", "other")} == {
        "loss": False, "count": True, "errors": False, "other": False,
    }  # fmt: skip
    assert task.decoding_settings == {"Errors": "exact"}


@pytest.mark.parametrize("metrics", [(Count(), Again()), (Errors(),)])
def test_a_figure_is_reported_once(metrics: tuple[Metric, ...]) -> None:
    task = Least(*metrics)
    tallies = task.tally(torch.ones(1), torch.ones(1))
    with pytest.raises(InputError, match=r"task\.metrics: (Again reports count|Errors reports errors), which is"):
        task.metrics({"errors": 1.0}, tallies)


def test_metrics_are_chosen_by_name_or_given() -> None:
    given = Again()
    chosen = choose_metrics(["count", given], {"count": Count, "errors": Errors})
    assert [*chosen] == ["count", "Again"]
    assert chosen["Again"] is given
    assert main_figure({"a": Errors(), "b": Count()}) == "count"
    assert main_figure({"a": Errors()}) == main_figure({}) == "loss"
    with pytest.raises(InputError, match=r"task\.metrics=eror is no metric of this task \(did you mean errors\?\)"):
        choose_metrics(["eror"], {"errors": Errors})
    with pytest.raises(InputError, match="names Count twice"):
        choose_metrics([Count(), Count()], {})
