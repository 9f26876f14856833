"""The kernels that a model runs on, by name. Every choice is made in one function; this file calls each of them."""

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
    """Return the name of what computes each part of a model, on that device and with products in that dtype."""
    names = {"linear maps": linear.describe(device, dtype)}
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
                names["recurrence"] = unroll.describe(device)
            elif isinstance(module.cell, MinimalCell):
                names["recurrence"] = minimal.describe(device)
            else:
                names["recurrence"] = f"the cell's own {'unroll' if hasattr(module.cell, 'unroll') else 'operators'}"
    return names
