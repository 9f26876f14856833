"""Attention on tiles: dense rectangles of queries and keys, viewed in the rows of a ragged batch without a copy.

Neighbouring sequences with equally many queries and equally many keys are a run, blocks [N, H, L, K] and [N, G, L', K].
Of a run only the tiles that hold a readable pair are computed, so a window of w costs L (BLOCK + w) pairs and not L^2.
Five queries, causal, w = 2, in blocks of two:

    keys       0 1 2 3 4
    query 0    x . . . .      tile: queries 0 to 2, keys 0 to 2, masked
    query 1    x x . . .
    query 2    . x x . .      tile: queries 2 to 4, keys 1 to 4, masked
    query 3    . . x x .
    query 4    . . . x x      tile: query 4, keys 3 to 5, nothing to mask

A tile goes through the CPU's flash kernel, or, where there is a bias or dropout, through explicit probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from seqlab.layers.attention.call import Call, allowed, bias_at, columns, distances, rows_as_block, sum_dtype
from seqlab.ragged import joint_runs_of

BLOCK = 128  # queries of a tile, where a run is cut

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


# ---------------------------------------------------------------------------------------------------------------- tiles

Tile = tuple[int, int, int, int, bool]


def tiles_of(length: int, key_length: int, causal: bool, window: int | None, native: bool) -> list[Tile]:
    """(query, end, key, key_end, masked): the tiles of a run; in a masked one not every pair is read.

    With `native`, the kernel knows the causal mask of a square, which then is one tile.
    """
    ahead = key_length - length
    if window is not None and window >= key_length:
        window = None
    first = max(0, -ahead) if causal else 0  # queries before it read nothing
    if window is None and (not causal or (native and ahead <= 0)):
        return [(first, length, 0, key_length, causal and length - first > 1)]
    tiles = []
    for query in range(first, length, BLOCK):
        end = min(query + BLOCK, length)
        place, last = query + ahead, end - 1 + ahead
        key, key_end = 0, last + 1
        masked = causal and query < end - 1
        if window is not None:
            key = max(0, place - window + 1)
            if not causal:
                key_end = min(key_length, last + window)
            masked = masked or key <= last - window or (not causal and key_end > place + window)
        tiles.append((query, end, key, key_end, masked))
    return tiles


@lru_cache(maxsize=8)  # the tiles inside a long sequence are alike
def _mask(
    queries: int, keys: int, ahead: int, causal: bool, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """[L, M]: 0 where a query reads, else -inf."""
    reads_LM = allowed(distances(0, queries, 0, keys, ahead, device), causal, window)
    return torch.zeros(reads_LM.shape, dtype=dtype, device=device).masked_fill_(reads_LM.logical_not(), float("-inf"))


class Reading(NamedTuple):
    """Which pairs of a tile are read: all of them, or

    square     those that the kernel's own causal mask leaves
    mask       those where this, added to the scores, is 0 and not -inf
    distance   [L, M]: place of key - place of query, where there is a bias
    """

    square: bool
    mask: Tensor | None
    distance: Tensor | None


def _tiles(
    call: Call, biased: bool, rows: list[Tensor], keys: list[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor], Reading]]:
    """Every tile, as views of what has a row for each query, of what has a row for each key, and how it is read."""
    flash, (_, _, lengths, key_lengths, _, causal, window, _) = call.kernel == "flash", call
    dtype = rows[0].dtype if flash else sum_dtype(rows[0].dtype)
    device = rows[0].device
    for start, key_start, count, length, key_length in joint_runs_of(lengths, key_lengths):
        if key_length == 0:
            continue
        run_rows = [rows_as_block(x, start, count, length) for x in rows]
        run_keys = [rows_as_block(x, key_start, count, key_length) for x in keys]
        for query, end, key, key_end, masked in tiles_of(length, key_length, causal, window, native=flash):
            queries, read, ahead = end - query, key_end - key, key_length - length + query - key
            square = flash and masked and causal and queries == read and (window is None or window >= read)
            mask = _mask(queries, read, ahead, causal, window, dtype, device) if masked and not square else None
            distance = distances(0, queries, 0, read, ahead, device) if biased else None
            yield (
                run_rows if queries == length else [x[:, :, query:end] for x in run_rows],
                run_keys if read == key_length else [x[:, :, key:key_end] for x in run_keys],
                Reading(square, mask, distance),
            )


# ------------------------------------------------------------------------------------------------- forward and backward


def forward(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, bias_HR: Tensor | None, call: Call) -> tuple[Tensor, Tensor]:
    """The output [T, H, K], and [T * H] sums of exponentials, as logarithms, in the order of the tiles ("flash")."""
    out_THK = q_THK.new_zeros(q_THK.shape)
    explicit = None if call.kernel == "flash" else _Explicit(q_THK, bias_HR, call)
    log_sums = [torch.empty(0, dtype=sum_dtype(q_THK.dtype), device=q_THK.device)]
    for (q, out), (k, v), reading in _tiles(call, bias_HR is not None, [q_THK, out_THK], [k_TGK, v_TGK]):
        if explicit is None:
            part, log_sum = _flash(q, k, v, 0.0, reading.square, attn_mask=reading.mask)
            log_sums.append(log_sum.flatten())
        else:
            part = explicit.forward(q, k, v, reading)
        out.copy_(part)
    sums = torch.cat(log_sums)  # fewer than T * H where a query reads nothing
    return out_THK, torch.nn.functional.pad(sums, (0, q_THK.shape[0] * q_THK.shape[1] - len(sums)))


def backward(
    dout_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    bias_HR: Tensor | None,
    out_THK: Tensor,
    log_sums: Tensor,
    call: Call,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of q, k, v and bias."""
    dq_THK, dk_TGK, dv_TGK = (x.new_zeros(x.shape) for x in (q_THK, k_TGK, v_TGK))
    explicit = None if call.kernel == "flash" else _Explicit(q_THK, bias_HR, call)
    rows = [q_THK, dout_THK.contiguous(), out_THK, dq_THK]
    keys = [k_TGK, v_TGK, dk_TGK, dv_TGK]
    done = 0
    for (q, dout, out, dq), (k, v, dk, dv), reading in _tiles(call, bias_HR is not None, rows, keys):
        if explicit is None:
            shape = q.shape[:3]
            log_sum = log_sums[done : done + shape.numel()].view(shape)
            done += shape.numel()
            parts = _flash_backward(dout, q, k, v, out, log_sum, 0.0, reading.square, attn_mask=reading.mask)
        else:
            parts = explicit.backward(dout, q, k, v, reading)
        dq.copy_(parts[0])
        dk.add_(parts[1])  # tiles of a run may share keys
        dv.add_(parts[2])
    return dq_THK, dk_TGK, dv_TGK, None if explicit is None else explicit.dbias_HR


# -------------------------------------------------------------------------------------------- probabilities written out


class _Explicit:
    """The tiles of one call with bias or dropout. Forward and backward draw the same numbers in the same order."""

    def __init__(self, q_THK: Tensor, bias_HR: Tensor | None, call: Call) -> None:
        self.scale = q_THK.shape[2] ** -0.5
        self.bias_HR = bias_HR
        self.dbias_HR = None if bias_HR is None else torch.zeros_like(bias_HR)
        self.keep = 1 - call.dropout
        self.generator = torch.Generator(q_THK.device)
        if call.seed is not None:
            self.generator.manual_seed(int(call.seed))  # on the CPU: nothing to wait for

    def forward(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> Tensor:
        _, kept = self.probabilities(q, k, reading)
        return _ungroup(_group(kept.to(v.dtype), v) @ v, q)

    def probabilities(self, q: Tensor, k: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        """softmax(q k^T / sqrt(K) + bias) [N, H, L, M], and what dropout leaves of it."""
        scores = _ungroup(_group(q, k) @ k.transpose(2, 3), q).to(sum_dtype(q.dtype)) * self.scale
        if self.bias_HR is not None and reading.distance is not None:
            scores = scores + bias_at(self.bias_HR, reading.distance)
        if reading.mask is not None:
            scores = scores + reading.mask
        p = scores.softmax(3)
        if self.keep == 1:
            return p, p
        return p, p * torch.empty_like(p).bernoulli_(self.keep, generator=self.generator).div_(self.keep)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, reading: Reading
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk and dv; the gradient of the bias adds up in `dbias_HR`."""
        p, kept = self.probabilities(q, k, reading)
        dout = _group(dout, k)
        dv = _group(kept.to(q.dtype), k).transpose(2, 3) @ dout
        pdp = kept * _ungroup(dout @ v.transpose(2, 3), q)
        dscores = pdp - p * pdp.sum(3, keepdim=True)
        if self.dbias_HR is not None and reading.distance is not None:
            places = columns(self.dbias_HR, reading.distance).flatten()
            self.dbias_HR.index_add_(1, places, dscores.sum(0).flatten(1).to(self.dbias_HR.dtype))
        ds = _group((dscores * self.scale).to(q.dtype), k)
        return _ungroup(ds @ k, q), ds.transpose(2, 3) @ _group(q, k), dv


def _group(x_NHLK: Tensor, k_NGMK: Tensor) -> Tensor:
    """[N, G, H / G * L, K]: the query heads that read one key head, one below the other."""
    return x_NHLK.reshape(x_NHLK.shape[0], k_NGMK.shape[1], -1, x_NHLK.shape[3])


def _ungroup(x: Tensor, like_NHLK: Tensor) -> Tensor:
    """[N, H, L, ...] from [N, G, H / G * L, ...]."""
    return x.reshape(*like_NHLK.shape[:3], x.shape[3])
