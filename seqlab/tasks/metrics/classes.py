"""Figures of predicted classes: a single one for every row, or any number of labels.

See `Metric` for tallies, and how they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqlab.ragged import IGNORED, Ragged
from seqlab.tasks.metrics.metric import Metric
from seqlab.tasks.metrics.rates import rates


@dataclass(frozen=True)
class Confusion(Metric):
    """Accuracy, F1 and Matthews correlation, from how often each class was taken for each.

    accuracy  the share of rows that are right
    macro_f1  the mean of F1 over the classes that occur or are predicted
    micro_f1  F1 of all decisions for or against a class at once; over all classes that is the accuracy
    mcc       correlation of prediction and target (Gorodkin 2004); 0 where either knows one class only

    Args:
        labels: the classes' names, by id.
        negative: those that say that there is nothing to find, such as O or no_relation; left out of `micro_f1`.
    """

    labels: tuple[str, ...]
    negative: tuple[str, ...] = ()

    main = "accuracy"

    def tally(self, predicted: Tensor | Ragged, targets: Tensor | Ragged) -> Tensor:
        """Return [C, C] int64: how many of the row's class were taken for the column's.

        Args:
            predicted: [T] int64, a class for each row, or [T, C], the scores of the classes.
            targets: [T] int64. A target of -100 counts nothing.
        """
        predicted_T, targets_T = (x.values if isinstance(x, Ragged) else x for x in (predicted, targets))
        if predicted_T.dim() == 2:
            predicted_T = predicted_T.argmax(1)
        classes = len(self.labels)
        evaluated_T = targets_T != IGNORED
        cells_T = targets_T.masked_fill(~evaluated_T, 0) * classes + predicted_T.masked_fill(~evaluated_T, 0)
        counts = cells_T.new_zeros(classes * classes).scatter_add_(0, cells_T, evaluated_T.long())
        return counts.view(classes, classes)

    def read(self, tally: Tensor) -> dict[str, float]:
        counts_C3 = _per_class(tally)
        correct, predicted, there = counts_C3.double().unbind(1)
        rows = there.sum()
        covariance = correct.sum() * rows - predicted @ there
        spread = (rows**2 - predicted @ predicted).sqrt() * (rows**2 - there @ there).sqrt()
        positive = torch.tensor([label not in self.negative for label in self.labels], device=tally.device)
        return {
            "accuracy": (correct.sum() / rows).item(),
            "macro_f1": rates(counts_C3).f1.nanmean().item(),
            "micro_f1": rates(counts_C3[positive].sum(0)).f1.item(),
            "mcc": (covariance / torch.where((spread == 0) & (rows > 0), 1.0, spread)).clamp(-1, 1).item(),
        }


def _per_class(tally_CC: Tensor) -> Tensor:
    """[C, 3]: correct, predicted, there."""
    return torch.stack([tally_CC.diagonal(), tally_CC.sum(0), tally_CC.sum(1)], 1)


@dataclass(frozen=True)
class LabelSets(Metric):
    """F1 and exact matches where an example has any number of labels.

    exact_match  the share of examples whose set of labels is right
    micro_f1     F1 of all decisions at once
    macro_f1     the mean of F1 over the labels that occur or are predicted
    """

    labels: tuple[str, ...]

    main = "micro_f1"

    def tally(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Return [C + 1, 3] int64: of each label correct, predicted and there; last the same of whole sets.

        Args:
            predicted: [B, C], the scores of the labels. A label is predicted where its probability exceeds 0.5, which
                is where its score exceeds 0.
            targets: [B, C] bool.
        """
        predicted_BC, targets_BC = predicted > 0, targets
        labels_C3 = torch.stack([(predicted_BC & targets_BC).sum(0), predicted_BC.sum(0), targets_BC.sum(0)], 1)
        examples = predicted_BC.new_full((), len(predicted_BC), dtype=torch.int64)
        sets_3 = torch.stack([(predicted_BC == targets_BC).all(1).sum(), examples, examples])
        return torch.cat([labels_C3, sets_3.unsqueeze(0)])

    def read(self, tally: Tensor) -> dict[str, float]:
        labels_C3, sets_3 = tally[:-1], tally[-1]
        return {
            "exact_match": rates(sets_3).precision.item(),
            "micro_f1": rates(labels_C3.sum(0)).f1.item(),
            "macro_f1": rates(labels_C3).f1.nanmean().item(),
        }
