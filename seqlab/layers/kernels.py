"""Which kernels a model runs on, in words: every choice is made in one function, and here each is asked."""

from __future__ import annotations

import torch
from torch import nn

from seqlab.layers import attend, product, scan, unroll
from seqlab.layers.attention import CrossAttention, SelfAttention
from seqlab.layers.cells import GatedCell
from seqlab.layers.rnn import Recurrence
from seqlab.layers.scan import MinimalCell


def kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Part of the model to what computes it, on that device and with products in that dtype."""
    words = {"linear maps": product.in_words(device, dtype)}
    for module in model.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            words["attention"] = attend.in_words(device, dtype, module.out.in_features // module.heads)
        if isinstance(module, Recurrence):
            if isinstance(module.cell, GatedCell):
                words["recurrence"] = unroll.in_words(device)
            elif isinstance(module.cell, MinimalCell):
                words["recurrence"] = scan.in_words(device)
            else:
                words["recurrence"] = f"the cell's own {'unroll' if hasattr(module.cell, 'unroll') else 'operators'}"
    return words
