"""LSTM and GRU over a whole time-major batch as one autograd function each: the fast path of the cells.

A recurrence has few products that must wait for the step before, and many that need not. Here the loop keeps only the
first kind. Forward: one product `h @ W` and the gates per step, into buffers made once. Backward: everything that does
not depend on the gradient arriving from the next step is multiplied out for all T rows beforehand; a step is then one
product and a few elementwise operators; the gradient of the weights is one product over all T rows at the end.

    steps   rows of step s are  starts[s] : starts[s] + widths[s]; the state of sequence j is row j of a [B, H] buffer,
            so a narrowing batch (forward) and a widening one (reverse) are the same loop over `[:width]`.

The equations are those of seqlab/layers/cells.py, and a test holds both equal. Both functions can be differentiated
once; `backend("plain")` differentiates twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqlab.ragged import offsets_of, positions_of, segments_of, widths_of


def unroll_lstm(
    x_TG: Tensor, weight_hh: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [T, H] and the state [B, H] after each sequence's last step; `x_TG` [T, 4 H] is `project`ed."""
    h_BH, c_BH = (s.to(weight_hh.dtype) for s in state)
    y_TH, h_BH, c_BH = _LSTM.apply(x_TG.to(weight_hh.dtype), weight_hh, h_BH, c_BH, lengths, reverse)
    return y_TH, [h_BH, c_BH]


def unroll_gru(
    x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, lengths: Tensor, state: list[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """Outputs [T, H] and the state [B, H] after each sequence's last step; `x_TG` [T, 3 H] is `project`ed."""
    h_BH = state[0].to(weight_hh.dtype)
    y_TH, h_BH = _GRU.apply(x_TG.to(weight_hh.dtype), weight_hh, bias_hh, h_BH, lengths, reverse)
    return y_TH, [h_BH]


def _steps(lengths: Tensor, reverse: bool) -> tuple[list[int], list[int]]:
    """The widths of all steps, and the order in which they are visited."""
    widths: list[int] = widths_of(lengths).tolist()
    order = list(range(len(widths)))
    return widths, order[::-1] if reverse else order


def _previous_rows(lengths: Tensor, reverse: bool) -> Tensor:
    """[T] rows in `cat([outputs_TH, initial_BH])` of the state that each time-major row starts from."""
    widths = widths_of(lengths)
    step, rank, starts = segments_of(widths), positions_of(widths), offsets_of(widths)
    total = step.shape[0]
    if reverse:
        before = step + 1
        begins = rank >= torch.cat([widths, widths.new_zeros(1)])[before]
    else:
        before = step - 1
        begins = step == 0
    return torch.where(begins, total + rank, starts[before.clamp(min=0)] + rank)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TG: Tensor, weight_hh: Tensor, h_BH: Tensor, c_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        widths, order = _steps(lengths, reverse)
        hidden = weight_hh.shape[1]
        gates_TG = torch.empty_like(x_TG)  # i, f, unused, o after the sigmoid
        g_TH, y_TH, c_TH, tanh_c_TH = x_TG.new_empty(4, x_TG.shape[0], hidden).unbind(0)
        w_HG = weight_hh.t()
        last_h, last_c = h_BH.clone(), c_BH.clone()
        x, gates = x_TG.split(widths), gates_TG.split(widths)
        i, f, before_g, o = (gate.split(widths) for gate in gates_TG.split(hidden, 1))
        g, y, c, tanh_c = (rows.split(widths) for rows in (g_TH, y_TH, c_TH, tanh_c_TH))
        for s in order:
            h_prev, c_prev = last_h[: widths[s]], last_c[: widths[s]]
            torch.addmm(x[s], h_prev, w_HG, out=gates[s])
            torch.tanh(before_g[s], out=g[s])
            gates[s].sigmoid_()
            torch.mul(f[s], c_prev, out=c[s]).addcmul_(i[s], g[s])
            torch.tanh(c[s], out=tanh_c[s])
            torch.mul(o[s], tanh_c[s], out=y[s])
            h_prev.copy_(y[s])
            c_prev.copy_(c[s])
        ctx.save_for_backward(weight_hh, h_BH, c_BH, gates_TG, g_TH, y_TH, c_TH, tanh_c_TH, lengths)
        ctx.reverse = reverse
        return y_TH, last_h, last_c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor, dh_BH: Tensor, dc_BH: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h_BH, c_BH, gates_TG, g_TH, y_TH, c_TH, tanh_c_TH, lengths = ctx.saved_tensors
        widths, order = _steps(lengths, ctx.reverse)
        hidden = weight_hh.shape[1]
        previous = _previous_rows(lengths, ctx.reverse).to(y_TH.device)
        h_prev_TH = torch.cat([y_TH, h_BH]).index_select(0, previous)
        c_prev_TH = torch.cat([c_TH, c_BH]).index_select(0, previous)

        # What multiplies dc in the gradients of i, f, g; and dh in those of o and of c.
        i_TH, f_TH, _, o_TH = gates_TG.split(hidden, 1)
        of_dc_T3H = torch.cat(
            [g_TH * i_TH * (1 - i_TH), c_prev_TH * f_TH * (1 - f_TH), i_TH * (1 - g_TH * g_TH)], 1
        ).view(-1, 3, hidden)
        to_o_TH = tanh_c_TH * o_TH * (1 - o_TH)
        to_c_TH = o_TH * (1 - tanh_c_TH * tanh_c_TH)

        dgates_TG = torch.empty_like(gates_TG)
        dh_BH, dc_BH = dh_BH.clone(), dc_BH.clone()
        dy, of_dc, to_o, to_c, f = (rows.split(widths) for rows in (dy_TH, of_dc_T3H, to_o_TH, to_c_TH, f_TH))
        dgates, do = dgates_TG.split(widths), dgates_TG[:, 3 * hidden :].split(widths)
        difg = dgates_TG.view(-1, 4, hidden)[:, :3].split(widths)
        for s in reversed(order):
            dh, dc = dh_BH[: widths[s]], dc_BH[: widths[s]]
            dh += dy[s]
            torch.mul(dh, to_o[s], out=do[s])
            dc.addcmul_(dh, to_c[s])
            torch.mul(of_dc[s], dc.unsqueeze(1), out=difg[s])
            dc *= f[s]
            torch.mm(dgates[s], weight_hh, out=dh)
        return dgates_TG, dgates_TG.t() @ h_prev_TH, dh_BH, dc_BH, None, None


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        widths, order = _steps(lengths, reverse)
        hidden = weight_hh.shape[1]
        product_TG = torch.empty_like(x_TG)  # h @ W + b; afterwards r, z (after the sigmoid) and h_n
        n_TH, y_TH = x_TG.new_empty(2, x_TG.shape[0], hidden).unbind(0)
        w_HG = weight_hh.t()
        last_h = h_BH.clone()
        x_rz, x_n = x_TG[:, : 2 * hidden].split(widths), x_TG[:, 2 * hidden :].split(widths)
        product, rz = product_TG.split(widths), product_TG[:, : 2 * hidden].split(widths)
        r, z, h_n = (gate.split(widths) for gate in product_TG.split(hidden, 1))
        n, y = n_TH.split(widths), y_TH.split(widths)
        for s in order:
            h_prev = last_h[: widths[s]]
            torch.addmm(bias_hh, h_prev, w_HG, out=product[s])
            rz[s].add_(x_rz[s]).sigmoid_()
            torch.addcmul(x_n[s], r[s], h_n[s], out=n[s]).tanh_()
            torch.lerp(n[s], h_prev, z[s], out=y[s])
            h_prev.copy_(y[s])
        ctx.save_for_backward(weight_hh, h_BH, product_TG, n_TH, y_TH, lengths)
        ctx.reverse = reverse
        return y_TH, last_h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TH: Tensor, dh_BH: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h_BH, product_TG, n_TH, y_TH, lengths = ctx.saved_tensors
        widths, order = _steps(lengths, ctx.reverse)
        hidden = weight_hh.shape[1]
        previous = _previous_rows(lengths, ctx.reverse).to(y_TH.device)
        h_prev_TH = torch.cat([y_TH, h_BH]).index_select(0, previous)

        # What multiplies dh in the gradients of r, z, h_n (three that go back through W) and of n.
        r_TH, z_TH, h_n_TH = product_TG.split(hidden, 1)
        to_n_TH = (1 - z_TH) * (1 - n_TH * n_TH)
        of_dh_T4H = torch.cat(
            [to_n_TH * h_n_TH * r_TH * (1 - r_TH), (h_prev_TH - n_TH) * z_TH * (1 - z_TH), to_n_TH * r_TH, to_n_TH], 1
        ).view(-1, 4, hidden)

        dgates_T4H = torch.empty_like(of_dh_T4H)
        through_TG = dgates_T4H.view(-1, 4 * hidden)[:, : 3 * hidden]
        dh_BH = dh_BH.clone()
        dy, of_dh, z = (rows.split(widths) for rows in (dy_TH, of_dh_T4H, z_TH))
        dgates, through = dgates_T4H.split(widths), through_TG.split(widths)
        for s in reversed(order):
            dh = dh_BH[: widths[s]]
            dh += dy[s]
            torch.mul(of_dh[s], dh.unsqueeze(1), out=dgates[s])
            torch.addmm(dh.mul_(z[s]), through[s], weight_hh, out=dh)
        dx_TG = dgates_T4H[:, [0, 1, 3]].flatten(1)
        return dx_TG, through_TG.t() @ h_prev_TH, through_TG.sum(0), dh_BH, None, None
