"""Contestants with one set of weights. A step is forward and backward, with gradients of parameters and input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmark.measure import Skipped, agree
from benchmark.work import HEAD, LAYERS
from seqlab import Layout, Ragged
from seqlab.layers.cells import GRUCell, LSTMCell
from seqlab.layers.positions import LearnedPositions, NoPositions
from seqlab.layers.rnn import RecurrentStack
from seqlab.layers.transformer import TransformerStack
from seqlab.models.encoders import TransformerEncoder
from seqlab.models.language_model import LanguageModel

Pairs = Callable[[Callable[[nn.Parameter], Tensor]], dict[str, tuple[Tensor, Tensor]]]
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
    """A batch, and a gradient for the output to send back."""
    generator = torch.Generator().manual_seed(1)
    layout = Layout(lengths)
    x, gradient = torch.randn(2, layout.total, width, generator=generator)
    return x, gradient, layout


def recurrent_steps(cell: str, width: int, lengths: Tensor) -> tuple[dict[str, Step], Pairs]:
    """seqlab, PackedSequence and padding."""
    ours_cell, theirs_cell = CELLS[cell]
    torch.manual_seed(0)
    ours: Any = RecurrentStack(width, width, ours_cell)
    theirs = theirs_cell(width, width, batch_first=True)
    mine = dict(ours.layers[0][0].cell.named_parameters())

    def pairs(of: Callable[[nn.Parameter], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (of(mine[name]), of(getattr(theirs, f"{name}_l0"))) for name in mine}

    share(pairs)
    rows = batch_of(width, lengths)
    return {
        "seqlab": seqlab_step(ours, *rows),
        "PackedSequence": packed_step(theirs, *rows),
        "padded": padded_step(theirs, lambda x, mask: theirs(x)[0], *rows),
    }, pairs


def transformer_steps(width: int, lengths: Tensor) -> tuple[dict[str, Step], Pairs]:
    """seqlab and padding: pre-norm encoders with the exact GELU, without positions, embedding or dropout.

    The peer is RoBERTa-PreLayerNorm: BERT's size and code, with the norms where seqlab has them.
    """
    torch.manual_seed(0)
    ours: Any = TransformerStack(width, width // HEAD, LAYERS, 4 * width, False, NoPositions(width, HEAD))
    steps = {"seqlab": seqlab_step(ours, *batch_of(width, lengths))}
    config = huggingface().RobertaPreLayerNormConfig(
        vocab_size=1,
        pad_token_id=0,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD,
        intermediate_size=4 * width,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
    )
    from transformers import RobertaPreLayerNormModel
    from transformers.masking_utils import create_bidirectional_mask

    theirs = RobertaPreLayerNormModel(config, add_pooling_layer=False)
    theirs.embeddings = nn.Identity()  # both sides read vectors

    def call(x: Tensor, mask: Tensor) -> Tensor:
        wide = create_bidirectional_mask(config=theirs.config, inputs_embeds=x, attention_mask=mask)
        return theirs.LayerNorm(theirs.encoder(x, attention_mask=wide)[0])

    def modules() -> Iterable[tuple[str, nn.Module, nn.Module]]:
        yield "norm", ours.norm, theirs.LayerNorm
        for i, (a, b) in enumerate(zip(ours.blocks, theirs.encoder.layer, strict=True)):
            yield f"{i} attention norm", a.attention_norm, b.attention.LayerNorm
            yield f"{i} attention out", a.attention.out, b.attention.output.dense
            yield f"{i} mlp norm", a.mlp_norm, b.intermediate.LayerNorm
            yield f"{i} mlp in", a.mlp[0], b.intermediate.dense
            yield f"{i} mlp out", a.mlp[2], b.output.dense

    def pairs(of: Callable[[nn.Parameter], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for name, a, b in modules():
            found[f"{name} weight"], found[f"{name} bias"] = (of(a.weight), of(b.weight)), (of(a.bias), of(b.bias))
        for i, (a, b) in enumerate(zip(ours.blocks, theirs.encoder.layer, strict=True)):
            its = b.attention.self
            for k, part in enumerate((its.query, its.key, its.value)):
                found[f"{i} {'qkv'[k]} weight"] = of(a.attention.qkv.weight).chunk(3)[k], of(part.weight)
                if k != 1:  # a bias of the keys moves all scores of a query alike: its gradient is rounding
                    found[f"{i} {'qkv'[k]} bias"] = of(a.attention.qkv.bias).chunk(3)[k], of(part.bias)
        return found

    share(pairs)
    steps["padded"] = padded_step(theirs, call, *batch_of(width, lengths))
    return steps, pairs


def language_models(
    vocabulary: int, width: int, heads: int, max_length: int, dropout: float
) -> tuple[LanguageModel, Any]:
    """seqlab's causal Transformer and GPT-2 of the same arithmetic and weights; the head's bias is 0 and stays."""
    torch.manual_seed(0)
    positions = partial(LearnedPositions, max_length=max_length)
    ours = LanguageModel(
        TransformerEncoder(vocabulary, positions, width, LAYERS, heads, causal=True, dropout=dropout), vocabulary
    )
    ours.head.bias.requires_grad_(False)
    peers = huggingface()
    theirs = peers.GPT2LMHeadModel(
        peers.GPT2Config(
            vocab_size=vocabulary,
            n_positions=max_length,
            n_embd=width,
            n_layer=LAYERS,
            n_head=heads,
            activation_function="gelu",
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    share(partial(language_model_pairs, ours, theirs))
    return ours, theirs


def language_model_pairs(
    ours: Any, theirs: Any, of: Callable[[nn.Parameter], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    encoder, other = ours.encoder, theirs.transformer
    found = {
        "embedding": (of(encoder.embedding.weight), of(other.wte.weight)),
        "positions": (of(encoder.embedding.positions.table), of(other.wpe.weight)),
    }
    norms = [("norm", encoder.stack.norm, other.ln_f)]
    for i, (a, b) in enumerate(zip(encoder.stack.blocks, other.h, strict=True)):
        norms += [(f"{i} attention norm", a.attention_norm, b.ln_1), (f"{i} mlp norm", a.mlp_norm, b.ln_2)]
        linears = (a.attention.qkv, b.attn.c_attn), (a.attention.out, b.attn.c_proj)
        for k, (mine, yours) in enumerate((*linears, (a.mlp[0], b.mlp.c_fc), (a.mlp[2], b.mlp.c_proj))):
            found[f"{i} linear {k}"] = of(mine.weight), of(yours.weight).t()  # stored the other way round
            found[f"{i} bias {k}"] = of(mine.bias), of(yours.bias)
    for name, mine, yours in norms:
        found[f"{name} weight"], found[f"{name} bias"] = (
            (of(mine.weight), of(yours.weight)),
            (of(mine.bias), of(yours.bias)),
        )
    return found


@torch.no_grad()
def share(pairs: Pairs, back: bool = False) -> None:
    """Their weights become ours, or, going back, ours become theirs."""
    for mine, yours in pairs(lambda parameter: parameter.data).values():
        if back:
            mine.copy_(yours)
        else:
            yours.copy_(mine)


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def agreement(ours: Step, theirs: Step, pairs: Pairs) -> float:
    """How far outputs and all gradients of two sides are apart, relative to the largest of each tensor.

    Raises:
        Disagreement: too far to be rounding.
    """
    mine, yours = ours.results(), theirs.results()
    for name, (a, b) in pairs(gradient).items():
        mine[name], yours[name] = a, b
    return agree(mine, yours)
