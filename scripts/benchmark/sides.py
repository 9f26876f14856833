"""Contestants with one set of weights. A step is forward and backward, with gradients of parameters and input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmark.measure import Skipped, agree
from benchmark.work import HEAD, LAYERS
from seqlab import Layout, Ragged
from seqlab.layers.positions import LearnedPositions, NoPositions
from seqlab.layers.recurrent.cells import GRUCell, LSTMCell
from seqlab.layers.recurrent.stack import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.models.encoders import TransformerEncoder
from seqlab.models.language_model import LanguageModel

Paired = dict[str, tuple[Tensor, Tensor]]
Pairs = Callable[[Callable[[Tensor], Tensor]], Paired]
CELLS = {"LSTM": (LSTMCell, nn.LSTM), "GRU": (GRUCell, nn.GRU)}


def huggingface() -> Any:
    """The peers' library, without its remarks.

    Raises:
        Skipped: it is not installed.
    """
    try:
        import accelerate  # noqa: F401
        import transformers
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed: pip install '.[bench]'") from error
    transformers.logging.set_verbosity_error()
    return transformers


@dataclass
class Step:
    """A model and a batch in the order the model wants, which `to` and `back` take flat rows [T, D] to and from."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    x: Tensor
    gradient: Tensor  # of the output, the same on all sides
    back_x: Callable[[Tensor], Tensor]
    back_y: Callable[[Tensor], Tensor]

    def __call__(self) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.forward(self.x)
        y.backward(self.gradient.to(y.dtype))
        return y

    def results(self) -> dict[str, Tensor]:
        """Output and gradient of the input, as flat rows."""
        y = self()
        assert self.x.grad is not None
        return {"output": self.back_y(y.detach()), "input's gradient": self.back_x(self.x.grad)}


def seqlab_step(model: Any, x_TD: Tensor, gradient_TD: Tensor, layout: Layout) -> Step:
    def forward(x: Tensor) -> Tensor:
        return model(Ragged(x, layout)).values

    return Step(model, forward, x_TD.clone().requires_grad_(), gradient_TD, torch.clone, torch.clone)


def padded_step(model: Any, call: Callable[..., Tensor], x_TD: Tensor, gradient_TD: Tensor, layout: Layout) -> Step:
    """`call(x, mask)` with x [B, S, D] and mask [B, S], 1 where there is a token."""
    padded = Ragged(x_TD, layout).to_padded().requires_grad_()
    gradient = Ragged(gradient_TD, layout).to_padded()
    mask = (torch.arange(layout.longest) < layout.lengths.unsqueeze(1)).long()

    def back(rows: Tensor) -> Tensor:
        return Ragged.from_padded(rows, layout.lengths).values

    return Step(model, partial(call, mask=mask), padded, gradient, back, back)


def packed_step(model: nn.RNNBase, x_TD: Tensor, gradient_TD: Tensor, layout: Layout) -> Step:
    padded = Ragged(x_TD, layout).to_padded().requires_grad_()
    index, inverse = layout.time_major.index_T, layout.time_major.inverse_T

    def forward(x: Tensor) -> Tensor:
        return model(pack_padded_sequence(x, layout.lengths, batch_first=True))[0].data

    def back_x(rows: Tensor) -> Tensor:
        return Ragged.from_padded(rows, layout.lengths).values

    return Step(model, forward, padded, gradient_TD[index], back_x, lambda y: y[inverse])


def batch_of(width: int, lengths: Tensor) -> tuple[Tensor, Tensor, Layout]:
    """Random rows, and a gradient for the output to send back."""
    layout = Layout(lengths)
    x, gradient = torch.randn(2, layout.total, width, generator=torch.Generator().manual_seed(1))
    return x, gradient, layout


def paired(ours: nn.Module, theirs: nn.Module, names: dict[str, str], of: Callable[[Tensor], Tensor]) -> Paired:
    """`of` every parameter of ours and of theirs; `names`: path of a module to that of theirs, or to those it joins."""
    found: Paired = {}
    for path, paths in names.items():
        parts = [theirs.get_submodule(part.strip()) for part in paths.split("+")]
        for k, part in enumerate(parts):
            both = zip(ours.get_submodule(path).named_parameters(recurse=False), part.parameters(False), strict=True)
            for (name, mine), yours in both:
                if len(parts) == 3 and k == 1 and name == "bias":
                    continue  # it moves all scores of a query alike: its gradient is rounding
                turned = type(part).__name__ == "Conv1D" and mine.dim() == 2  # stored the other way round
                found[f"{path}.{name} {k}"] = of(mine).chunk(len(parts))[k], of(yours).t() if turned else of(yours)
    return found


@torch.no_grad()
def share(pairs: Pairs, back: bool = False) -> None:
    """Their weights become ours, or, going back, ours become theirs."""
    for mine, yours in pairs(lambda parameter: parameter.data).values():
        _ = mine.copy_(yours) if back else yours.copy_(mine)


def agreement(ours: Step, theirs: Step, pairs: Pairs) -> float:
    """How far outputs and all gradients of two sides are apart, relative to the largest of each tensor.

    Raises:
        Disagreement: too far to be rounding.
    """
    mine, yours = ours.results(), theirs.results()
    for name, (a, b) in pairs(lambda parameter: parameter.grad).items():  # type: ignore[return-value, arg-type]
        mine[name], yours[name] = a, b
    return agree(mine, yours)


def recurrent_steps(cell: str, width: int, lengths: Tensor) -> tuple[dict[str, Step], Pairs]:
    """One layer: seqlab, PackedSequence and padding."""
    torch.manual_seed(0)
    ours_cell, theirs_cell = CELLS[cell]
    ours, theirs = RecurrentStack(width, width, ours_cell), theirs_cell(width, width, batch_first=True)
    pairs = partial(paired, ours, theirs, {"layers.0.0.cell": ""})
    share(pairs)
    batch = batch_of(width, lengths)
    steps = {
        "seqlab": seqlab_step(ours, *batch),
        "PackedSequence": packed_step(theirs, *batch),
        "padded": padded_step(theirs, lambda x, mask: theirs(x)[0], *batch),
    }
    return steps, pairs


def transformer_steps(width: int, lengths: Tensor) -> tuple[dict[str, Step], Pairs]:
    """seqlab and padding: pre-norm encoders with the exact GELU, without positions, embedding or dropout.

    The peer is RoBERTa-PreLayerNorm: BERT's size and code, with the norms where seqlab has them.
    """
    torch.manual_seed(0)
    heads = width // HEAD
    ours = TransformerStack(width, heads, LAYERS, 4 * width, False, NoPositions(width, HEAD))
    config = huggingface().RobertaPreLayerNormConfig(
        vocab_size=1, pad_token_id=0, hidden_size=width, num_hidden_layers=LAYERS, num_attention_heads=heads,
        intermediate_size=4 * width, hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    from transformers import RobertaPreLayerNormModel
    from transformers.masking_utils import create_bidirectional_mask

    theirs = RobertaPreLayerNormModel(config, add_pooling_layer=False)
    theirs.embeddings = nn.Identity()  # both sides read vectors
    names = {"norm": "LayerNorm"}
    for i in range(LAYERS):
        a, b = f"blocks.{i}", f"encoder.layer.{i}"
        qkv = " + ".join(f"{b}.attention.self.{part}" for part in ("query", "key", "value"))
        names |= {f"{a}.attention_norm": f"{b}.attention.LayerNorm", f"{a}.attention.qkv": qkv}
        names |= {f"{a}.attention.out": f"{b}.attention.output.dense", f"{a}.mlp_norm": f"{b}.intermediate.LayerNorm"}
        names |= {f"{a}.mlp.0": f"{b}.intermediate.dense", f"{a}.mlp.2": f"{b}.output.dense"}
    pairs = partial(paired, ours, theirs, names)
    share(pairs)

    def call(x: Tensor, mask: Tensor) -> Tensor:
        wide = create_bidirectional_mask(config=theirs.config, inputs_embeds=x, attention_mask=mask)
        return theirs.LayerNorm(theirs.encoder(x, attention_mask=wide)[0])

    batch = batch_of(width, lengths)
    return {"seqlab": seqlab_step(ours, *batch), "Hugging Face": padded_step(theirs, call, *batch)}, pairs


def language_models(
    vocabulary: int, width: int, heads: int, max_length: int, dropout: float
) -> tuple[LanguageModel, Any, Pairs]:
    """seqlab's causal Transformer and GPT-2 of the same arithmetic and weights; the head's bias is 0 and stays."""
    torch.manual_seed(0)
    positions = partial(LearnedPositions, max_length=max_length)
    encoder = TransformerEncoder(vocabulary, positions, width, LAYERS, heads, causal=True, dropout=dropout)
    ours = LanguageModel(encoder, vocabulary)
    ours.head.bias.requires_grad_(False)
    peers = huggingface()
    config = peers.GPT2Config(
        vocab_size=vocabulary, n_positions=max_length, n_embd=width, n_layer=LAYERS, n_head=heads,
        activation_function="gelu", resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = peers.GPT2LMHeadModel(config)
    names = {"embedding": "wte", "embedding.positions": "wpe", "stack.norm": "ln_f"}
    for i in range(LAYERS):
        a, b = f"stack.blocks.{i}", f"h.{i}"
        names |= {f"{a}.attention_norm": f"{b}.ln_1", f"{a}.mlp_norm": f"{b}.ln_2"}
        names |= {f"{a}.attention.qkv": f"{b}.attn.c_attn", f"{a}.attention.out": f"{b}.attn.c_proj"}
        names |= {f"{a}.mlp.0": f"{b}.mlp.c_fc", f"{a}.mlp.2": f"{b}.mlp.c_proj"}
    pairs = partial(paired, encoder, theirs.transformer, names)
    share(pairs)
    return ours, theirs, pairs
