"""Which kernels a model runs on, in names: every choice is made in one function, and here each is asked."""

from __future__ import annotations

import torch
from torch import nn

from seqlab.layers import linear
from seqlab.layers.attention.global_attention import GlobalAttention
from seqlab.layers.attention.modules import CrossAttention, SelfAttention
from seqlab.layers.recurrent import minimal, unroll
from seqlab.layers.recurrent.cells import GatedCell
from seqlab.layers.recurrent.minimal import MinimalCell
from seqlab.layers.recurrent.stack import Recurrence
from seqlab.layers.transformer import TransformerBlock
from seqlab.layers.universal import UniversalTransformer


def kernels(model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Part of the model to what computes it, on that device and with products in that dtype."""
    names = {"linear maps": linear.in_words(device, dtype)}
    for module in model.modules():
        if isinstance(module, SelfAttention):
            names["attention"] = module.kernel(device, dtype)
        if isinstance(module, CrossAttention | GlobalAttention):
            names["attention to the source"] = module.kernel(device, dtype)
        if isinstance(module, UniversalTransformer):
            names["attention"] = "torch's own on runs of equal length"
        if isinstance(module, TransformerBlock) and module.compiler is not None:
            names["blocks"] = "torch.compile"
        if isinstance(module, Recurrence):
            if isinstance(module.cell, GatedCell):
                names["recurrence"] = unroll.in_words(device)
            elif isinstance(module.cell, MinimalCell):
                names["recurrence"] = minimal.in_words(device)
            else:
                names["recurrence"] = f"the cell's own {'unroll' if hasattr(module.cell, 'unroll') else 'operators'}"
    return names
