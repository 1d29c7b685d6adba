r"""The forward pass of a monotonic rational-quadratic spline, several times as fast.

zuko's builds all knots and leaves each of some sixty operations to autograd. Here a number asks
only for its own bin, the bins are the first axis of all arrays (operations over eight neighbours
in memory are slow), and the derivative is written down: one node of the graph.
"""

from __future__ import annotations

__all__ = ["Spline"]

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Transform, constraints
from zuko.transforms import MonotonicRQSTransform


class Spline(Transform):
    r"""zuko's :class:`MonotonicRQSTransform`, with a faster `call_and_ladj`.

    Arguments:
        widths, heights: Numbers of the K bins, not normalised, with shapes :math:`(*, K)`.
        derivatives: Of the inner knots, with shape :math:`(*, K - 1)`.
        bound: The spline is the identity outside of [-bound, bound].
        slope: The minimum slope.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(
        self, widths: Tensor, heights: Tensor, derivatives: Tensor, bound: float = 5.0,
        slope: float = 1e-3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.phi, self.bound, self.slope = (widths, heights, derivatives), bound, slope

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""y of x, with shape :math:`(*)`, and :math:`\log |dy / dx|`."""
        widths, heights, derivatives = self.phi
        shape = torch.broadcast_shapes(x.shape, widths.shape[:-1])
        w, h, d = (
            t.expand(*shape, t.shape[-1]).flatten(0, -2).T for t in (widths, heights, derivatives)
        )
        bins = torch.stack([w, h])
        y, ladj = _Forward.apply(x.expand(shape).reshape(-1), bins, d, self.bound, self.slope)
        return y.view(shape), ladj.view(shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return MonotonicRQSTransform(*self.phi, bound=self.bound, slope=self.slope).inv(y)


class _Forward(torch.autograd.Function):
    r"""y and its log-slope of x (M), bins (2, K, M) and inner knots' derivatives (K - 1, M).

    With z the place of x in its bin of width w and height h, s = h / w, r = z (1 - z) and the
    slopes a, b of its ends, y is its lower knot plus h N / D, and its slope is (s / D)² Q, where
    N = s z² + a r, D = s + (a + b - 2 s) r, Q = 2 s r + a (1 - z)² + b z².
    """

    @staticmethod
    def forward(ctx, x, bins, inner, bound, slope):
        soft = -math.log(slope)
        ctx.bound, ctx.soft = bound, soft
        shares = torch.softmax(bins / (bins.abs() * (2 / soft) + 1), dim=1)
        knots = shares.cumsum(1)
        inside = (x > -bound) & (x <= bound)
        place = (x.clamp(-bound, bound) / (2 * bound) + 0.5).expand_as(x)
        k = (knots[0, :-1] < place).sum(0)
        at = k.expand(2, 1, -1)
        own = shares.gather(1, at)[:, 0]
        low = knots.gather(1, at)[:, 0] - own  # in units of the whole, from 0 to 1
        # Both ends have the slope one.
        ends = torch.nn.functional.pad(inner / (inner.abs() / soft + 1), (0, 0, 1, 1))
        a, b = ends.gather(0, torch.stack([k, k + 1])).exp_()
        z = ((place - low[0]) / own[0]).clamp_(0, 1)
        s = own[1] / own[0]
        rest = 1 - z
        r = z * rest
        N = s * z * z + a * r
        D = s + (a + b - 2 * s) * r
        Q = 2 * s * r + a * rest * rest + b * z * z
        y = torch.where(inside, bound * (2 * (low[1] + own[1] * N / D) - 1), x)
        ladj = torch.where(inside, (s / D).square_().mul_(Q).log_(), 0.0)
        ctx.save_for_backward(bins, inner, shares, inside, k, own, low, a, b, z, s, N, D, Q)
        return y, ladj

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, gl):
        bins, inner, shares, inside, k, own, low, a, b, z, s, N, D, Q = ctx.saved_tensors
        soft, whole = ctx.soft, 2 * ctx.bound
        K = bins.shape[1]
        gx = torch.where(inside, 0.0, gy)
        gy, gl = torch.where(inside, gy * whole, 0.0), torch.where(inside, gl, 0.0)
        rest = 1 - z
        r, turn = z * rest, 1 - 2 * z
        gN = gy * own[1] / D
        gD = -(gN * N + 2 * gl) / D
        gQ = gl / Q
        gs = gN * z * z + gD * (1 - 2 * r) + 2 * (gQ * r + gl / s)
        gz = (
            gN * (2 * s * z + a * turn)
            + gD * (a + b - 2 * s) * turn
            + 2 * gQ * (s * turn - a * rest + b * z)
        )
        across = gz / own[0]  # of the place itself; its lower knot has the opposite
        lower = torch.stack([-across, gy])
        size = torch.stack([-(gs * s + gz * z) / own[0], gy * N / D + gs / own[0]])
        # Shares below the bin move its lower knot, its own is its size; a softmax made them.
        j = torch.arange(K, device=k.device)[:, None]
        share = torch.where(j < k, lower[:, None], torch.where(j == k, size[:, None], 0.0))
        share = shares * (share - (low * lower + own * size)[:, None])
        gbins = share / (bins.abs() * (2 / soft) + 1).square_()
        i = j[:-1] + 1
        slopes = torch.where(i == k, (gN + gD) * r + gQ * rest * rest, 0.0) * a
        slopes += torch.where(i == k + 1, gD * r + gQ * z * z, 0.0) * b
        ginner = slopes / (inner.abs() / soft + 1).square_()
        return gx + across / whole, gbins, ginner, None, None
