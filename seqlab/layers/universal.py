"""The Universal Transformer with adaptive computation time: one block, applied to each token as often as it asks for.

One shared block refines every token in rounds (Dehghani et al. 2019, section 2). After each round a token has a
probability of halting; when these add up to the threshold it halts, and what comes out is the mean of the outputs of
its rounds, weighted by those probabilities (Graves 2016, section 2). With s_0 the token that came in:

    x_n = s_(n-1) + signal_n        the round's coordinate, a trained vector; a token's place is in `positions`
    s_n = block(x_n)                reads keys and values of the x_n of its whole sequence
    o_n = norm(s_n)
    h_n = sigmoid(w o_n + b)        N = the first round with h_1 + ... + h_N >= threshold, at most max_steps
    R   = 1 - (h_1 + ... + h_(N-1))
    y   = h_1 o_1 + ... + h_(N-1) o_(N-1) + R o_N           ponder cost of the token: N + R

A token that has halted leaves the batch of flat rows. Its state s_N is only copied from then on: what others read of it
are the keys and values of s_N + signal_(N+1), computed once, in round N + 1, and only if somebody still reads them.
Hence the rows that enter each product, over all rounds:

    query, output, mlp, halting     sum of N: the tokens that run
    keys and values                 those, and a token that has halted, once; none that no running token can read

Where the papers leave room: the listing in Dehghani et al., appendix C, takes the halting probability from the state
before the round and mixes states recursively; here both are as in Graves. The norms stand before each part and at the
end (Xiong et al. 2020). The number of rounds has no gradient; the weights of the mean, and R in the ponder cost, have
(Graves 2016, section 2.2). A token that halts in its first round has R = 1 and so no say in when to halt.

Which tokens run on is decided by the data, and loops are planned on the host: a copy of one boolean for each running
token, from the device to the host in every round but the last, cannot be avoided. For the same reason TorchScript
holds the layer and a graph does not. And it is a decision: where two ways to compute the same batch round differently,
a sum of probabilities within rounding of the threshold may fall on the other side. Such a token's own output then
moves by about 1 - threshold, and those who read it in later rounds read another state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqlab.layers.attention.some import attend_some
from seqlab.layers.layer import SequenceLayer
from seqlab.layers.linear import Linear
from seqlab.layers.positions import Positions
from seqlab.ragged import Ragged, rows_of, segments_of


def updated(kv: Tensor, keys: Tensor, new: Tensor, changed: Tensor, wanted: Tensor) -> Tensor:
    """Rows of the `wanted` keys: from `new` where they are among the `changed`, else from `kv`, which has `keys`."""
    row = torch.zeros(int(torch.cat([keys, changed]).max()) + 1, dtype=torch.int64)
    row[keys] = torch.arange(keys.shape[0])
    row[changed] = torch.arange(changed.shape[0]) + keys.shape[0]
    return torch.cat([kv, new]).index_select(0, row[wanted].to(kv.device))


class UniversalTransformer(SequenceLayer):
    """One block for up to `max_steps` rounds, each token halting by itself, then a norm.

    After a forward pass the layer knows what there was to compute: `tokens` T, `rounds` (the sum of N), `rows_shown`
    (whose keys and values were computed) and `pairs` of a query and a key.

    Args:
        width: model width D.
        heads: attention heads H; D must be a multiple of it.
        max_steps: the most rounds for a token.
        mlp_width: width of the hidden layer of the block.
        causal: a token reads only itself and those before it.
        positions: acts on queries and keys by its `rotate`, in every round.
        threshold: 1 - epsilon of Graves 2016, section 2; None: nothing halts, all tokens run `max_steps` rounds and the
            last state comes out.
        dropout: share of the values that each part adds which are zeroed while training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        max_steps: int,
        mlp_width: int,
        causal: bool,
        positions: Positions,
        threshold: float | None = 0.99,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: expected at least 1")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}: expected more than 0 and at most 1, or null")
        if positions.bias(causal) is not None:
            raise ValueError("model.positions=relative does not act in model=universal: choose rotary, or another")
        self.heads = heads
        self.max_steps = max_steps
        self.causal = causal
        self.epsilon = 0.0 if threshold is None else 1 - threshold
        self.positions = positions
        self.tokens, self.rounds, self.rows_shown, self.pairs = 0, 0, 0, 0
        self.signal = nn.Parameter(torch.randn(max_steps, width) * 0.02)
        self.attention_norm = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        widen, narrow = Linear(width, mlp_width), Linear(mlp_width, width)
        self.mlp = nn.Sequential(widen, nn.GELU(), narrow)
        self.dropout = nn.Dropout(dropout)
        self.halting = None if threshold is None else nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width)
        scale = (2 * max_steps) ** -0.5  # as in a stack of that many blocks (seqlab/layers/transformer.py)
        for linear, std in (
            (self.query, 0.02),
            (self.key_value, 0.02),
            (self.out, 0.02 * scale),
            (widen, 0.02),
            (narrow, 0.02 * scale),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
        if self.halting is not None:
            nn.init.normal_(self.halting.weight, std=0.02)
            nn.init.constant_(self.halting.bias, -1.0)  # four rounds for a start, and each has a say in when to halt

    def forward(self, x: Ragged) -> Ragged:
        return x.with_values(self.ponder(x.values, x.lengths, None, False)[0])

    def flops(self, lengths: Tensor) -> float:
        """Useful FLOPs of a forward and a backward pass over sequences of these lengths [B]: 6 per token and weight.

        Known only once the rounds are: exact for the batch of the last forward pass. Of other lengths it says what they
        take if their tokens run, and read, as much as those did on average; 0 before the first pass.
        """
        parts = [part for part in (self.query, self.out, self.mlp, self.halting) if part is not None]
        weights = [weight.numel() for part in parts for weight in part.parameters() if weight.dim() == 2]
        products = sum(weights) * self.rounds
        products += self.key_value.weight.numel() * self.rows_shown + 2 * self.query.in_features * self.pairs
        return 6.0 * products * int(lengths.sum()) / max(self.tokens, 1)

    def core(self, values: Tensor, lengths: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return outputs [T, D] and, of a causal layer, the state after them.

        The state holds what each token already read shows in each round, keys and values [T', max_steps, 2, H, K], and
        the number of such tokens in each sequence [B].
        """
        y_TD, _, _, after = self.ponder(values, lengths, state, self.causal)
        return y_TD, after

    def ponder(
        self, values: Tensor, lengths: Tensor, state: list[Tensor] | None, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The outputs y [T, D]; N [T] int64, on the CPU; R [T]; and the state, if it is to be kept.

        Keeping asks for more: what a halted token shows is then computed though nobody has come yet to read it.
        """
        if state is not None and not self.causal:
            raise ValueError("only a causal layer continues from a state: set model.causal=true")
        device, total = values.device, values.shape[0]
        past = torch.zeros_like(lengths) if state is None else state[1]
        before, key_lengths = int(past.sum()), past + lengths
        sequence, place = segments_of(lengths), rows_of(past, lengths)  # of each token
        place_T = place.to(device)
        # Keys are numbered: first those of the past, then those of the tokens. In the order of the sequences:
        in_order = torch.argsort(torch.cat([segments_of(past), sequence]), stable=True)
        keys, kv = in_order[:0], values[:0]  # what was read in the round before: numbers, and rows [T', 2, H, K]
        shown: list[Tensor] = []  # keys and values of all rounds, to keep
        newest = torch.zeros_like(sequence)  # among these, the row of each token
        newest_of_round: list[Tensor] = []

        N = torch.zeros_like(sequence)
        ran, goes_on = torch.arange(total), torch.ones(total, dtype=torch.bool)
        s, mean = values, torch.zeros_like(values)
        rest = torch.ones(total, dtype=torch.promote_types(values.dtype, torch.float32), device=device)  # 1 - h_1 - ...
        halted, means, rests = [ran[:0]], [mean[:0]], [rest[:0]]
        rows_shown, pairs = 0, 0
        for n in range(self.max_steps):
            # Who runs, how far they read, and whose state has changed since it was last read.
            running = ran[goes_on]
            count = running.shape[0]
            if count == 0 and not keep:
                break
            counts, seen = self.readers(sequence[running], place[running], key_lengths)
            copied = torch.logical_not(goes_on)
            if not keep:  # of those who have just halted, only those that somebody reads
                copied = copied & (place[ran] < seen[sequence[ran]])
            changed = torch.cat([running, ran[copied]])
            if count < ran.shape[0]:
                s = s.index_select(0, torch.cat([goes_on.nonzero(), copied.nonzero()]).flatten().to(device))

            # What they read.
            x = s + self.signal[n]
            normed, here = self.attention_norm(x), place_T.index_select(0, changed.to(device))
            new = self.show(normed, here)
            if keep:
                newest[changed] = torch.arange(changed.shape[0]) + rows_shown
                newest_of_round.append(newest.clone())
                shown.append(new)
            rows_shown += changed.shape[0]
            if count == 0:
                break
            wanted = in_order[rows_of(key_lengths.cumsum(0) - key_lengths, seen)]
            if wanted.shape[0] == count:  # all of it is new
                kv = new[:count]
            else:
                changed = changed + before
                if state is not None:
                    new, changed = torch.cat([new, state[0].select(1, n)]), torch.cat([changed, torch.arange(before)])
                kv = updated(new[:0] if n == 0 else kv, keys, new, changed, wanted)
            keys = wanted

            # The block, and who halts.
            s = self.block(x[:count], normed[:count], here[:count], counts, kv, seen)
            o = self.norm(s)
            N[running] = n + 1
            pairs += int((place[running] + 1 if self.causal else key_lengths[sequence[running]]).sum())
            h = torch.zeros_like(rest)
            if self.halting is not None:
                h = torch.sigmoid(self.halting(o).squeeze(1).to(rest.dtype))
            if n + 1 < self.max_steps:
                stays = rest - h > self.epsilon
                goes_on = stays.cpu()
            else:
                stays, goes_on = torch.zeros_like(rest, dtype=torch.bool), torch.zeros_like(running, dtype=torch.bool)
            ran = running
            mean = mean + torch.where(stays, h, rest).unsqueeze(1) * o
            if not bool(goes_on.all()):
                stop, stay = torch.logical_not(goes_on).nonzero().flatten(), goes_on.nonzero().flatten().to(device)
                halted.append(ran[stop])
                means.append(mean.index_select(0, stop.to(device)))
                rests.append(rest.index_select(0, stop.to(device)))
                mean, rest, h = mean.index_select(0, stay), rest.index_select(0, stay), h.index_select(0, stay)
            rest = rest - h

        self.tokens, self.rounds, self.rows_shown, self.pairs = total, int(N.sum()), rows_shown, pairs
        back = torch.argsort(torch.cat(halted)).to(device)
        y_TD = torch.cat(means).index_select(0, back).to(values.dtype)
        R_T = torch.cat(rests).index_select(0, back)
        if not keep:
            return y_TD, N, R_T, [key_lengths]
        newest_of_round += [newest] * (self.max_steps - len(newest_of_round))
        kept = torch.cat(shown)[torch.stack(newest_of_round, 1).to(device)]
        if state is not None:
            kept = torch.cat([state[0], kept])[in_order.to(device)]
        return y_TD, N, R_T, [kept, key_lengths]

    def readers(self, sequence: Tensor, place: Tensor, key_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tokens that run: how many in each sequence [B], and how many keys these read between them [B]."""
        counts = torch.bincount(sequence, minlength=key_lengths.shape[0])
        seen = key_lengths * (counts > 0)
        if self.causal:
            seen[counts > 0] = place[counts.cumsum(0)[counts > 0] - 1] + 1  # up to the last that runs
        return counts, seen

    def show(self, normed_TD: Tensor, place_T: Tensor) -> Tensor:
        """Keys and values [T, 2, H, K]."""
        k, v = self.key_value(normed_TD).unflatten(-1, [2, self.heads, -1]).unbind(1)
        return torch.stack([self.positions.rotate(k, place_T), v], 1)

    def block(self, x: Tensor, normed: Tensor, place: Tensor, counts: Tensor, kv: Tensor, seen: Tensor) -> Tensor:
        """x + attention(norm(x)), then x + mlp(norm(x)), for the tokens that run."""
        q = self.positions.rotate(self.query(normed).unflatten(-1, [self.heads, -1]), place)
        x = x + self.dropout(self.out(attend_some(q, place, counts, kv, seen, self.causal).flatten(1)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
