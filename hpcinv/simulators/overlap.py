r"""Random overlap: the k-distribution of two gases whose lines know nothing of each other.

If a and b are the optical depths of two gases in a bin, as quantile functions at Gauss points
with weights w, the sum takes the value :math:`a_i + b_j` with probability :math:`w_i w_j`. Sorted,
these N² values are the quantile function of the mixture; its means over the N intervals of g are
the mixture's own k-distribution (Lacis & Oinas 1991, resort and rebin).

Where one of the gases is thin (:math:`\max b = \epsilon`), its mean may be added instead:
transmission is :math:`\overline{e^{-a}} (1 - \bar b)` up to :math:`\epsilon^2 / 2`.
"""

from __future__ import annotations

__all__ = ["mix", "mix_all"]

import torch
from torch import Tensor

ROWS = 512  # mixed at a time: what they need stays in a core's cache


def mix_all(taus: Tensor, weights: Tensor, thin: float = 0.02) -> Tensor:
    r"""Mixes the gases, one after the other.

    Arguments:
        taus: Optical depths of G gases with shape (G, *, N), ascending along N.
        weights: Of the N Gauss points, summing to one.
        thin: Below this, a gas adds its mean. Zero mixes all.

    Returns:
        Optical depths of the mixture with shape (*, N), ascending.
    """
    total = taus[0]
    for tau in taus[1:]:
        total = _mix_where(total, tau, weights, thin)
    return total


def _mix_where(a: Tensor, b: Tensor, weights: Tensor, thin: float) -> Tensor:
    a_thin, b_thin = a[..., -1:] < thin, b[..., -1:] < thin
    # Of two thin gases the one that matters less gives its mean.
    b_gives = b_thin & ~(a_thin & (a[..., -1:] < b[..., -1:]))
    mean_a, mean_b = (t @ weights for t in (a, b))
    out = torch.where(b_gives, a + mean_b[..., None], b + mean_a[..., None])
    both = ~(a_thin | b_thin)[..., 0]
    if both.any():
        at = both.flatten().nonzero()[:, 0]
        rows = mix(*(t.expand(out.shape).reshape(-1, out.shape[-1])[at] for t in (a, b)), weights)
        out = out.flatten(0, -2).index_copy(0, at, rows).view_as(out)
    return out


def mix(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    r"""Mixes two gases: (R, N) and (R, N) to (R, N)."""
    chunks = zip(a.split(ROWS), b.split(ROWS), strict=True)
    return torch.cat([_mix(a, b, weights) for a, b in chunks])


def _mix(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    N = len(weights)
    tau, w = _sorted((a[:, :, None] + b[:, None, :]).flatten(1), weights)
    # The step function's integral from 0 to g is piecewise linear in g.
    g = w.cumsum(-1)
    integral = w.mul_(tau).cumsum(-1) if not tau.requires_grad else (w * tau).cumsum(-1)
    edges = weights.cumsum(-1)[:-1].expand(len(g), N - 1).contiguous()
    i = torch.searchsorted(g, edges).clamp_(max=N * N - 1)
    # The part of step i beyond the edge is taken away again.
    inner = integral.gather(-1, i) - (g.gather(-1, i) - edges) * tau.gather(-1, i)
    whole = torch.cat([torch.zeros_like(inner[:, :1]), inner, integral[:, -1:]], dim=-1)
    return whole.diff(dim=-1) / weights


def _sorted(tau: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Positive numbers in order, with the weights of their places.

    On a CPU the place of a number is written into the last 9 bits of its mantissa, so that a sort
    of values is one of places: numpy's vectorised sort is twenty times faster than one that
    carries places along. What is sorted is rounded to 14 bits, 6e-5.
    """
    pairs, size = (weights[:, None] * weights).flatten(), tau.shape[-1]
    if tau.device.type != "cpu" or tau.dtype != torch.float32 or size > 512:
        order = tau.detach().argsort(dim=-1)
        return tau.gather(-1, order), pairs.take(order)
    place = torch.arange(size, dtype=torch.int32)
    bits = (tau.detach().view(torch.int32) & ~511).bitwise_or_(place).numpy()
    bits.sort(axis=-1)
    order = torch.from_numpy(bits & 511)
    w = pairs.index_select(0, order.flatten()).view_as(tau)
    if tau.requires_grad:
        return tau.gather(-1, order.long()), w
    return torch.from_numpy(bits).bitwise_and_(~511).bitwise_or_(256).view(torch.float32), w
