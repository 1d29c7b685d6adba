r"""The inverse of an autoregressive spline transformation, several times as fast.

Three things make it so. The network is walked once, not once for each parameter: with the masks
of an autoregressive network a hidden unit needs only parameters before its own, and is made as
soon as they are known. Samples are the last axis of all arrays, so that operations over the few
bins of a spline run along them. And a sample looks for its bin among sums that are not normalised
yet: of what zuko makes of all knots, two are needed.
"""

from __future__ import annotations

__all__ = ["fits", "inverse"]

import inspect
import math
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.nn import MaskedLinear

from hpcinv.models.spline import Spline

CHUNK = 1 << 15  # samples at a time: enough to be worth a call, and a few tens of MB


def fits(step: MaskedAutoregressiveTransform) -> bool:
    r"""Whether a transformation is made of splines and plain masked layers with ReLU."""
    made = step.univariate.func if isinstance(step.univariate, partial) else step.univariate
    layers = list(step.hyper)
    return (
        made is Spline
        and all(isinstance(m, MaskedLinear) for m in layers[::2])
        and all(type(m) is nn.ReLU for m in layers[1::2])
    )


def inverse(
    step: MaskedAutoregressiveTransform, context: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Inverts a transformation for which :func:`fits` holds.

    Arguments:
        context: With shape :math:`(B, C)`.
        y: What it gave, with shape :math:`(N, B, P)`.

    Returns:
        :math:`x` with :math:`f(x) = y`, and :math:`\log |dy / dx|` with shape (N, B).
    """
    network, (N, B, P) = _Network(step, context), y.shape
    columns = y.permute(2, 0, 1)
    x, ladj = torch.empty_like(columns), y.new_empty(N, B)
    some = max(1, CHUNK // B)
    for i in range(0, N, some):
        part = columns[:, i : i + some].reshape(P, -1)
        found, slope = network.invert(part, B)
        x[:, i : i + some] = found.view(P, -1, B)
        ladj[i : i + some] = slope.view(-1, B)
    return x.permute(1, 2, 0), ladj


class _Network:
    r"""A transformation's network, its hidden units sorted by the pass that makes them."""

    def __init__(self, step: MaskedAutoregressiveTransform, context: Tensor) -> None:
        P = len(step.order)
        self.passes, self.order, self.total = step.passes, step.order, step.total
        told = inspect.signature(Spline).parameters
        given = step.univariate.keywords if isinstance(step.univariate, partial) else {}
        self.bound, self.slope = (given.get(k, told[k].default) for k in ("bound", "slope"))
        self.bins = step.shapes[0][0]
        first, *middle, last = list(step.hyper)[::2]
        # A unit is made in the pass after the last parameter that it needs.
        needs = torch.where(first.mask[:, :P], self.order + 1, 0)
        level = needs.amax(1)
        sort = level.argsort(stable=True)
        weight = first.mask * first.weight
        outside = nn.functional.linear(context, weight[:, P:], first.bias)  # (B, H)
        self.outside = outside.T[sort].contiguous()
        self.layers = [(weight[sort][:, :P].contiguous(), None, self._ends(level))]
        for layer in middle:
            before, level = sort, torch.where(layer.mask, level, 0).amax(1)
            sort = level.argsort(stable=True)
            weight = (layer.mask * layer.weight)[sort][:, before].contiguous()
            self.layers.append((weight, layer.bias[sort, None], self._ends(level)))
        weight = (last.mask * last.weight)[:, sort].unflatten(0, (P, self.total))
        offset = last.bias.unflatten(0, (P, self.total))
        self.at = [torch.nonzero(self.order == k).flatten() for k in range(self.passes)]
        # Of one parameter as of several: spline numbers first, then parameters.
        self.heads = [
            (weight[at].transpose(0, 1).flatten(0, 1), offset[at].T.reshape(-1, 1))
            for at in self.at
        ]

    def _ends(self, level: Tensor) -> list[int]:
        r"""How many units are made after each pass."""
        return [0, *(int((level <= k).sum()) for k in range(self.passes))]

    def invert(self, y: Tensor, observations: int) -> tuple[Tensor, Tensor]:
        r"""x of y (P, M), and the log-Jacobian (M); observations come in turn along M."""
        M = y.shape[1]
        x, ladj = torch.zeros_like(y), y.new_zeros(M)
        units = [y.new_empty(len(w), M) for w, _, _ in self.layers]
        for k, at in enumerate(self.at):
            below, known = x, len(x)
            for (weight, offset, ends), made in zip(self.layers, units, strict=True):
                lo, hi = ends[k], ends[k + 1]
                if lo < hi:
                    h = weight[lo:hi, :known] @ below[:known]
                    if offset is None:
                        h.view(hi - lo, -1, observations).add_(self.outside[lo:hi, None])
                    else:
                        h += offset[lo:hi]
                    torch.clamp(h, min=0, out=made[lo:hi])
                below, known = made, hi
            weight, offset = self.heads[k]
            phi = torch.addmm(offset, weight[:, :known], below[:known])
            n = len(at)
            found, slope = self._spline(phi.view(self.total, n * M), y[at].reshape(-1))
            x[at] = found.view(n, M)
            ladj += slope.view(n, M).sum(0)
        return x, ladj

    def _spline(self, phi: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""The inverse of splines phi (3 K - 1, M) at y (M), and their log-slopes there."""
        K, bound, soft = self.bins, self.bound, -math.log(self.slope)
        across = phi.new_empty(2, K + 1, phi.shape[1])
        across[:, 0] = 0
        raw = phi[: 2 * K].view(2, K, -1)
        raw = (raw / raw.abs().mul_(2 / soft).add_(1)).exp_()
        torch.cumsum(raw, dim=1, out=across[:, 1:])
        sums = across[:, -1]
        inside = (y > -bound) & (y <= bound)
        place = (y.clamp(-bound, bound) / (2 * bound) + 0.5) * sums[1]
        k = ((across[1, 1:-1] < place).sum(0, keepdim=True)).expand(2, 1, -1)
        low, high = across.gather(1, k)[:, 0], across.gather(1, k + 1)[:, 0]
        x0, y0 = low[0] / sums[0], low[1] / sums[1]  # in units of the whole, from 0 to 1
        width, height = high[0] / sums[0] - x0, high[1] / sums[1] - y0
        # Both ends have the slope one: the logarithm of the first and the last knot's is zero.
        ends = nn.functional.pad(phi[2 * K :], (0, 0, 1, 1))
        ends = torch.cat([ends.gather(0, k[0]), ends.gather(0, k[0] + 1)])
        d0, d1 = (ends / ends.abs().mul_(1 / soft).add_(1)).exp_()
        s = height / width
        more, up = d0 + d1 - 2 * s, place / sums[1] - y0
        b = height * d0 - up * more
        root = (b.square() + 4 * (height * (s - d0) + up * more) * s * up).clamp_(min=0).sqrt_()
        z = 2 * s * up / (b + root)
        rest = z * (1 - z)
        slope = s.square() * (2 * s * rest + d0 * (1 - z).square() + d1 * z.square())
        slope = (slope / (s + more * rest).square()).log()
        x = bound * (2 * (x0 + z * width) - 1)
        return torch.where(inside, x, y), torch.where(inside, slope, 0.0)
