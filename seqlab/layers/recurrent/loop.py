"""The loops of LSTM, GRU and tanh by torch's operators, on any device: the twin of `compiled.py`.

A recurrence has few products that must wait for the step before, and many that need not. Here the loop keeps only the
first kind. Forward: one product `h @ W` and the gates per step, into buffers made once. Backward: everything that does
not depend on the gradient arriving from the next step is multiplied out for all T rows beforehand; a step is then one
product and a few elementwise operators.

    steps   rows of step s are  starts[s] : starts[s] + widths[s]; the state of sequence j is row j of a [B, H] buffer,
            so a narrowing batch (forward) and a widening one (reverse) are the same loop over `[:width]`.

Each cell has a function forward, which returns what its other function needs, and one backward, from the gradients of
the outputs [T, H] and of the final state [B, H] to those of the projected inputs and of the initial state. The
equations are those of seqlab/layers/recurrent/cells.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqlab.layers.recurrent.steps import previous_rows
from seqlab.ragged import widths_of


def _steps(lengths: Tensor, reverse: bool) -> tuple[list[int], list[int]]:
    """The widths of all steps, and the order in which they are read."""
    widths: list[int] = widths_of(lengths).tolist()
    order = list(range(len(widths)))
    return widths, order[::-1] if reverse else order


def lstm(
    x_TG: Tensor, weight_hh: Tensor, h_BH: Tensor, c_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Outputs [T, H] and cell states [T, H]. The gates i, f, g, o [T, 4 H] are written over `x_TG`."""
    widths, order = _steps(lengths, reverse)
    hidden = weight_hh.shape[1]
    y_TH, c_TH, tanh_c_TH = x_TG.new_empty(3, x_TG.shape[0], hidden).unbind(0)
    w_HG = weight_hh.t()
    h_BH, c_BH = h_BH.clone(), c_BH.clone()
    gates, i_f = x_TG.split(widths), x_TG[:, : 2 * hidden].split(widths)
    i, f, g, o = (gate.split(widths) for gate in x_TG.split(hidden, 1))
    y, c, tanh_c = (rows.split(widths) for rows in (y_TH, c_TH, tanh_c_TH))
    for s in order:
        h_prev, c_prev = h_BH[: widths[s]], c_BH[: widths[s]]
        gates[s].addmm_(h_prev, w_HG)
        i_f[s].sigmoid_()
        g[s].tanh_()
        o[s].sigmoid_()
        torch.mul(f[s], c_prev, out=c[s]).addcmul_(i[s], g[s])
        torch.tanh(c[s], out=tanh_c[s])
        torch.mul(o[s], tanh_c[s], out=y[s])
        h_prev.copy_(y[s])
        c_prev.copy_(c[s])
    return y_TH, c_TH


def lstm_backward(
    weight_hh: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    y_TH: Tensor,
    c_TH: Tensor,
    gates_TG: Tensor,
    dy_TH: Tensor,
    dh_BH: Tensor,
    dc_BH: Tensor,
    lengths: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h before each row [T, H]; gradients of the projected inputs [T, 4 H], and of the initial state, two of [B, H]."""
    widths, order = _steps(lengths, reverse)
    hidden = weight_hh.shape[1]
    c_prev_TH = previous_rows(c_TH, c_BH, lengths, reverse)
    tanh_c_TH = c_TH.tanh()

    # What multiplies dc in the gradients of i, f, g; and dh in those of o and of c.
    i_TH, f_TH, g_TH, o_TH = gates_TG.split(hidden, 1)
    of_dc_T3H = torch.cat([g_TH * i_TH * (1 - i_TH), c_prev_TH * f_TH * (1 - f_TH), i_TH * (1 - g_TH * g_TH)], 1).view(
        -1, 3, hidden
    )
    to_o_TH = tanh_c_TH * o_TH * (1 - o_TH)
    to_c_TH = o_TH * (1 - tanh_c_TH * tanh_c_TH)

    dx_TG = torch.empty_like(gates_TG)
    dh_BH, dc_BH = dh_BH.clone(), dc_BH.clone()
    dy, of_dc, to_o, to_c, f = (rows.split(widths) for rows in (dy_TH, of_dc_T3H, to_o_TH, to_c_TH, f_TH))
    dx, do = dx_TG.split(widths), dx_TG[:, 3 * hidden :].split(widths)
    difg = dx_TG.view(-1, 4, hidden)[:, :3].split(widths)
    for s in reversed(order):
        dh, dc = dh_BH[: widths[s]], dc_BH[: widths[s]]
        dh += dy[s]
        torch.mul(dh, to_o[s], out=do[s])
        dc.addcmul_(dh, to_c[s])
        torch.mul(of_dc[s], dc.unsqueeze(1), out=difg[s])
        dc *= f[s]
        torch.mm(dx[s], weight_hh, out=dh)
    return previous_rows(y_TH, h_BH, lengths, reverse), dx_TG, dh_BH, dc_BH


def gru(
    x_TG: Tensor, weight_hh: Tensor, bias_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Outputs [T, H], and r, z, W h + b of n, and n [T, 4 H]."""
    widths, order = _steps(lengths, reverse)
    hidden = weight_hh.shape[1]
    y_TH, gates_TG = x_TG.new_empty(x_TG.shape[0], hidden), x_TG.new_empty(x_TG.shape[0], 4 * hidden)
    w_HG = weight_hh.t()
    h_BH = h_BH.clone()
    x_rz, x_n = x_TG[:, : 2 * hidden].split(widths), x_TG[:, 2 * hidden :].split(widths)
    product, rz = gates_TG[:, : 3 * hidden].split(widths), gates_TG[:, : 2 * hidden].split(widths)
    r, z, h_n, n = (gate.split(widths) for gate in gates_TG.split(hidden, 1))
    y = y_TH.split(widths)
    for s in order:
        h_prev = h_BH[: widths[s]]
        torch.addmm(bias_hh, h_prev, w_HG, out=product[s])
        rz[s].add_(x_rz[s]).sigmoid_()
        torch.addcmul(x_n[s], r[s], h_n[s], out=n[s]).tanh_()
        torch.lerp(n[s], h_prev, z[s], out=y[s])
        h_prev.copy_(y[s])
    return y_TH, gates_TG


def gru_backward(
    weight_hh: Tensor,
    h_BH: Tensor,
    y_TH: Tensor,
    gates_TG: Tensor,
    dy_TH: Tensor,
    dh_BH: Tensor,
    lengths: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h before each row [T, H]; gradients of the inputs and of W h + b [T, 3 H], and of the initial state [B, H]."""
    widths, order = _steps(lengths, reverse)
    hidden = weight_hh.shape[1]
    h_prev_TH = previous_rows(y_TH, h_BH, lengths, reverse)

    # What multiplies dh in the gradients of r, z, W h + b of n (three that go back through W) and of n.
    r_TH, z_TH, h_n_TH, n_TH = gates_TG.split(hidden, 1)
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
    return h_prev_TH, dgates_T4H[:, [0, 1, 3]].flatten(1), through_TG.contiguous(), dh_BH


def tanh(x_TH: Tensor, weight_hh: Tensor, h_BH: Tensor, lengths: Tensor, reverse: bool) -> Tensor:
    """Outputs [T, H]."""
    widths, order = _steps(lengths, reverse)
    y_TH = torch.empty_like(x_TH)
    w_HH = weight_hh.t()
    h_BH = h_BH.clone()
    x, y = x_TH.split(widths), y_TH.split(widths)
    for s in order:
        h_prev = h_BH[: widths[s]]
        torch.addmm(x[s], h_prev, w_HH, out=y[s]).tanh_()
        h_prev.copy_(y[s])
    return y_TH


def tanh_backward(
    weight_hh: Tensor, h_BH: Tensor, y_TH: Tensor, dy_TH: Tensor, dh_BH: Tensor, lengths: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """h before each row [T, H]; gradients of the projected inputs [T, H] and of the initial state [B, H]."""
    widths, order = _steps(lengths, reverse)
    to_x_TH = 1 - y_TH * y_TH
    dx_TH = torch.empty_like(y_TH)
    dh_BH = dh_BH.clone()
    dy, to_x, dx = (rows.split(widths) for rows in (dy_TH, to_x_TH, dx_TH))
    for s in reversed(order):
        dh = dh_BH[: widths[s]]
        dh += dy[s]
        torch.mul(dh, to_x[s], out=dx[s])
        torch.mm(dx[s], weight_hh, out=dh)
    return previous_rows(y_TH, h_BH, lengths, reverse), dx_TH, dh_BH
