"""Heads: what a model answers with, and the loss that trains it.

Cross-entropy needs the scores of a row only while it looks at that row. So a loop over chunks of rows computes scores,
loss and, where gradients are wanted, at once what the chunk adds to every gradient; then the scores are written over.
[T, V] never exists, no product is computed twice, and the loop's own memory does not grow with T.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqlab.layers.backend import is_fast
from seqlab.layers.product import affine, linear, multiply, over_rows

IGNORED = -100  # a target that is not predicted: its row adds nothing


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


def _cross_entropy(z_NV: Tensor, targets_N: Tensor, smoothing: float, learning: bool) -> Tensor:
    """[N] log sum exp z - (1 - s) z[target] - s mean(z), the loss of every row with scores z and label smoothing s.

    Writes over the scores; with `learning`, what is left in their place is the loss's gradient in them,
    softmax(z) - s / V, less (1 - s) at the target.
    """
    counts_N1 = (targets_N != IGNORED).to(z_NV.dtype).unsqueeze(1)
    target_N1 = targets_N.masked_fill(targets_N == IGNORED, 0).unsqueeze(1)
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
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_T: Tensor, smoothing: float, grad: bool
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
            losses_T[chunk] = _cross_entropy(z, targets_T[chunk], smoothing, learning)
            product = z.to(dtype)
            if dh_TD is not None:
                dh_TD[chunk] = multiply(product, w_VD)
            if dw_VD is not None:
                dw_VD += over_rows(product, h)
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
        return *(None if d is None else d.to(dtype) * dloss for d, dtype in pairs), None, None, None


class SoftmaxHead(nn.Module):
    """One score per class for every row: the output layer of language models, classifiers and taggers.

    Args:
        width: model width D of the rows that come in.
        classes: how many classes C; for a language model the vocabulary V.
        weight: [C, D] to share, such as the embedding's (Press & Wolf 2017); None makes its own.
        label_smoothing: share of each target that is spread evenly over all classes while training, and only then
            (Szegedy et al. 2016, section 7).

    Raises:
        ValueError: the shared weight has another shape, or the smoothing is not a share below 1.
    """

    def __init__(
        self, width: int, classes: int, weight: nn.Parameter | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if weight is not None and weight.shape != (classes, width):
            raise ValueError(f"a shared weight must be [{classes}, {width}], got {list(weight.shape)}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: expected at least 0 and less than 1")
        self.weight = nn.Parameter(torch.randn(classes, width) * width**-0.5) if weight is None else weight
        self.bias = nn.Parameter(torch.zeros(classes))
        self.label_smoothing = label_smoothing

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """The scores."""
        return self.scores(hidden_TD)

    @torch.jit.export
    def scores(self, hidden_TD: Tensor) -> Tensor:
        """[T, D] to [T, C], before the softmax."""
        return linear(hidden_TD, self.weight, self.bias)

    def loss(self, hidden_TD: Tensor, targets_T: Tensor) -> Tensor:
        """The sum over rows of the negative log-likelihood, in nats; 0 for no rows. A target of -100 adds nothing.

        While training it is that of the smoothed targets.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        if is_fast():
            given = (hidden_TD, self.weight, self.bias, targets_T)
            return _ChunkedLoss.apply(*given, smoothing, torch.is_grad_enabled())
        scores_TC = self.scores(hidden_TD)
        at_least_float32 = torch.promote_types(scores_TC.dtype, torch.float32)
        scores_TC = scores_TC.to(at_least_float32)
        return F.cross_entropy(scores_TC, targets_T, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)

    def flops(self, rows: int) -> float:
        """Useful FLOPs of a training step on so many predicted rows; see `SequenceLayer.flops`."""
        return 6.0 * self.weight.numel() * rows
