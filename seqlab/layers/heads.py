"""Heads: what a model answers with, and the loss that trains it.

Cross-entropy needs the scores of a row only while it looks at that row. So a loop over chunks of rows computes scores,
loss and, where gradients are wanted, at once what the chunk adds to every gradient; then the scores are written over.
[T, V] never exists, no product is computed twice, and the loop's own memory does not grow with T.

Heads that answer with labels, these and `CRFHead`, are called alike: `loss(hidden, targets_T, lengths)` sums over rows,
`lengths` [B] saying how many targets each example has; `probabilities(hidden, lengths)` and, of tags, `decode(hidden,
lengths)` and `likelihoods(hidden, lengths, tags)` are for people. A head to which each row is a world of its own needs
no lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.backend import is_fast
from seqlab.layers.linear import add_over_rows, affine, linear, multiply
from seqlab.ragged import IGNORED, segments_of


def chunk_rows(classes: int, device: torch.device) -> int:
    """Rows whose scores are held at once: 2^22 scores, 16 MiB in float32, which a host's cache still holds.

    An accelerator needs larger products to be busy and gets 2^26 scores. At least 128 rows, because every chunk reads
    the whole weight and adds to the whole of its gradient.
    """
    return max(2 ** (22 if device.type == "cpu" else 26) // classes, 128)


def product_dtype(x: Tensor) -> torch.dtype:
    """In which a product of `x` is computed: autocast's, where that is on. It leaves float64 alone."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 else x.dtype


def at_least_float32(x: Tensor) -> Tensor:
    """What losses and probabilities are computed in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def checked_weights(class_weights: Sequence[float] | None, classes: int) -> Tensor | None:
    """[C] the weight of each class.

    Raises:
        ValueError: there are not as many as classes, or one is negative.
    """
    if class_weights is None:
        return None
    if len(class_weights) != classes or min(class_weights) < 0:
        raise ValueError(
            f"class_weights={list(class_weights)}: expected {classes} numbers, one per class, none below 0"
        )
    return torch.tensor(class_weights, dtype=torch.get_default_dtype())


def _cross_entropy(
    z_NV: Tensor, targets_N: Tensor, weights_V: Tensor | None, smoothing: float, learning: bool
) -> Tensor:
    """[N] log sum exp z - (1 - s) z[target] - s mean(z), the loss of every row with scores z and label smoothing s,
    times the weight of the target.

    Writes over the scores; with `learning`, what is left in their place is the loss's gradient in them,
    softmax(z) - s / V, less (1 - s) at the target.
    """
    counts_N1 = (targets_N != IGNORED).to(z_NV.dtype).unsqueeze(1)
    target_N1 = targets_N.masked_fill(targets_N == IGNORED, 0).unsqueeze(1)
    if weights_V is not None:
        counts_N1 *= weights_V[target_N1]
    z_NV.sub_(z_NV.amax(1, keepdim=True))  # all that matters are differences of scores, and exp stays within range
    aimed_at_N1 = (1 - smoothing) * z_NV.gather(1, target_N1)
    if smoothing:
        aimed_at_N1 += smoothing * z_NV.mean(1, keepdim=True)
    total_N1 = z_NV.exp_().sum(1, keepdim=True)
    if learning:
        z_NV.mul_(counts_N1 / total_N1)
        if smoothing:
            z_NV.sub_(counts_N1 * (smoothing / z_NV.shape[1]))
        z_NV.scatter_add_(1, target_N1, (smoothing - 1) * counts_N1)
    return ((total_N1.log() - aimed_at_N1) * counts_N1).squeeze(1)


class _ChunkedLoss(torch.autograd.Function):
    """The sum of `_cross_entropy` over all rows, and the gradients of hidden rows, weight and bias, in one sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        targets_T: Tensor,
        class_weights_V: Tensor | None,
        smoothing: float,
        grad: bool,
    ) -> Tensor:
        """`grad`: whether gradients are wanted at all, which a function cannot see from inside."""
        dtype = product_dtype(hidden_TD)
        wide = torch.promote_types(dtype, torch.float32)  # of softmax and sums
        h_TD, w_VD, b_V = hidden_TD.to(dtype), weight_VD.to(dtype), bias_V.to(dtype)
        wants_h, wants_w, wants_b = (grad and needed for needed in ctx.needs_input_grad[:3])
        dh_TD = torch.empty_like(h_TD) if wants_h else None
        dw_VD = torch.zeros_like(w_VD, dtype=wide) if wants_w else None
        db_V = torch.zeros_like(b_V, dtype=wide) if wants_b else None
        losses_T = torch.empty_like(targets_T, dtype=wide)
        learning = wants_h or wants_w or wants_b

        rows = chunk_rows(w_VD.shape[0], h_TD.device)
        for start in range(0, h_TD.shape[0], rows):
            chunk = slice(start, start + rows)
            h = h_TD[chunk]
            product = affine(h, w_VD, b_V)
            z = product.to(wide)  # itself, where that is its dtype
            losses_T[chunk] = _cross_entropy(z, targets_T[chunk], class_weights_V, smoothing, learning)
            product = z.to(dtype)
            if dh_TD is not None:
                dh_TD[chunk] = multiply(product, w_VD)
            if dw_VD is not None:
                add_over_rows(dw_VD, product, h)
            if db_V is not None:
                db_V += z.sum(0)
        ctx.save_for_backward(dh_TD, dw_VD, db_V)
        ctx.dtypes = hidden_TD.dtype, weight_VD.dtype, bias_V.dtype
        return losses_T.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        # Multiplied always: to ask whether the factor is 1 would wait for the device.
        return *(None if d is None else d.to(dtype) * dloss for d, dtype in pairs), None, None, None, None


class Head(nn.Module):
    """Scores for every row: a linear map, of which heads differ in what they make.

    Args:
        width: model width D of the rows that come in.
        classes: how many scores C each gets.
        weight: [C, D] to share; None makes its own.
    """

    def __init__(self, width: int, classes: int, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        if weight is not None and weight.shape != (classes, width):
            raise ValueError(f"a shared weight must be [{classes}, {width}], got {list(weight.shape)}")
        self.weight = nn.Parameter(torch.randn(classes, width) * width**-0.5) if weight is None else weight
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """The scores."""
        return self.scores(hidden_TD)

    def scores(self, hidden_TD: Tensor) -> Tensor:
        """Return scores [T, C], before they become probabilities, of rows [T, D]."""
        return linear(hidden_TD, self.weight, self.bias)

    def predictions(self, hidden_BD: Tensor) -> Tensor:
        """Return what the head predicts for each row: probabilities [B, C], or numbers [B]."""
        raise NotImplementedError

    def flops(self, rows: int) -> float:
        """Useful FLOPs of a training step on so many predicted rows; see `SequenceLayer.flops`."""
        return 6.0 * self.weight.numel() * rows


class SoftmaxHead(Head):
    """One score per class for every row: the output layer of language models, classifiers and taggers.

    Args:
        width: model width D of the rows that come in.
        classes: how many classes C; for a language model the vocabulary V.
        weight: [C, D] to share, such as the embedding's (Press & Wolf 2017); None makes its own.
        label_smoothing: share of each target that is spread evenly over all classes while training, and only then
            (Szegedy et al. 2016, section 7).
        class_weights: by which the loss of a row with that target is multiplied while training, and only then; rows
            count as before, so that a larger weight is a longer step. None: 1 for all.

    Raises:
        ValueError: the shared weight has another shape, the smoothing is not a share below 1, or there is not a weight
            for each class.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        width: int,
        classes: int,
        weight: nn.Parameter | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(width, classes, weight)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: expected at least 0 and less than 1")
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", checked_weights(class_weights, classes), persistent=False)

    def probabilities(self, hidden_TD: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[..., D] to [..., C], adding up to 1."""
        return at_least_float32(self.scores(hidden_TD)).softmax(-1)

    def predictions(self, hidden_BD: Tensor) -> Tensor:
        return self.probabilities(hidden_BD)

    def likelihoods(self, hidden_TD: Tensor, lengths: Tensor | None, tags_T: Tensor) -> tuple[Tensor, Tensor]:
        """[T] each: see `CRFHead.likelihoods`; here a tag does not depend on the one before it."""
        p_T = self.probabilities(hidden_TD).gather(1, tags_T.unsqueeze(1)).squeeze(1)
        return p_T, p_T

    def decode(self, hidden_TD: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[...] int64, the likeliest class of each row."""
        return self.scores(hidden_TD).argmax(-1)

    def loss(self, hidden_TD: Tensor, targets_T: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The sum over rows of the negative log-likelihood, in nats; 0 for no rows. A target of -100 adds nothing.

        While training it is that of the smoothed targets, weighted by their classes.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        weights_C = self.class_weights if self.training else None
        if is_fast():
            given = (hidden_TD, self.weight, self.bias, targets_T, weights_C)
            return _ChunkedLoss.apply(*given, smoothing, torch.is_grad_enabled())
        options: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": smoothing}
        scores_TC = at_least_float32(self.scores(hidden_TD))
        if weights_C is None:
            return F.cross_entropy(scores_TC, targets_T, reduction="sum", **options)
        losses_T = F.cross_entropy(scores_TC, targets_T, reduction="none", **options)
        return losses_T @ weights_C[targets_T.clamp(min=0)].to(losses_T.dtype)


class SigmoidHead(Head):
    """Any number of labels for every row: each is there or not, independently of the others, given the row.

    Args:
        width: model width D of the rows that come in.
        classes: how many labels C there are.
        class_weights: by which the loss in each label is multiplied while training, and only then; None: 1 for all.

    Raises:
        ValueError: there is not a weight for each label.
    """

    class_weights: Tensor | None

    def __init__(self, width: int, classes: int, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(width, classes)
        self.register_buffer("class_weights", checked_weights(class_weights, classes), persistent=False)

    def probabilities(self, hidden_BD: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[B, D] to [B, C], each label's own."""
        return at_least_float32(self.scores(hidden_BD)).sigmoid()

    def predictions(self, hidden_BD: Tensor) -> Tensor:
        return self.probabilities(hidden_BD)

    def loss(self, hidden_BD: Tensor, targets_T: Tensor, lengths: Tensor) -> Tensor:
        """The sum over rows and labels of the negative log-likelihood, in nats; `lengths` [B]: labels of each row.

        A row with a target of -100 adds nothing; one without targets has none of the labels.
        """
        scores_BC = at_least_float32(self.scores(hidden_BD))
        rows_T, ignored_T = segments_of(lengths).to(scores_BC.device), targets_T == IGNORED
        given_TC = F.one_hot(targets_T.masked_fill(ignored_T, 0), scores_BC.shape[1]).to(scores_BC.dtype)
        there_BC = torch.zeros_like(scores_BC).index_add(0, rows_T, given_TC).clamp(max=1)
        ignored_B = scores_BC.new_zeros(len(lengths)).index_add(0, rows_T, ignored_T.to(scores_BC.dtype)) > 0
        weights_C = self.class_weights if self.training else None
        losses_BC = F.binary_cross_entropy_with_logits(scores_BC, there_BC, weights_C, reduction="none")
        return losses_BC.masked_fill(ignored_B.unsqueeze(1), 0).sum()


class RegressionHead(Head):
    """A real number for every row.

    Args:
        width: model width D of the rows that come in.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def predictions(self, hidden_BD: Tensor) -> Tensor:
        return self.scores(hidden_BD).squeeze(1)

    def loss(self, hidden_BD: Tensor, targets_B: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The sum over rows of the squared error. A target of NaN adds nothing; -100 is a number like any other."""
        errors_B = at_least_float32(self.scores(hidden_BD)).squeeze(1) - targets_B
        return errors_B.masked_fill(targets_B.isnan(), 0).square().sum()
