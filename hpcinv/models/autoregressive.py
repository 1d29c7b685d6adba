r"""The inverse of autoregressive flows, parameter by parameter.

zuko's inverse runs the whole hyper-network and all univariate transformations of P parameters in
each of P passes, and uses one of them. Here a pass asks only for what it determines, and what the
network makes of the context is made once: the same numbers for a small part of the work.
"""

from __future__ import annotations

__all__ = ["inverse"]

import torch
from torch import Tensor
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.utils import unpack

from hpcinv.models import spline_inverse


def inverse(flow, context: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""Inverts a flow and tells its log-Jacobian.

    Arguments:
        flow: A zuko flow of masked autoregressive transformations; others are inverted by zuko.
        context: With shape :math:`(B, C)`.
        z: Numbers of the base, with shape :math:`(N, B, P)`.

    Returns:
        :math:`w` with :math:`f(w) = z`, and :math:`\log |dz / dw|` with shape (N, B).
    """
    steps = getattr(flow.transform, "transforms", None)
    known = steps is not None and all(
        isinstance(t, MaskedAutoregressiveTransform) and t.order is not None for t in steps
    )
    if not known:
        w, ladj = flow(context).transform.inv.call_and_ladj(z)
        return w, -ladj
    ladj = z.new_zeros(z.shape[:-1])
    for step in reversed(steps):
        one = spline_inverse.inverse if spline_inverse.fits(step) else _one
        z, more = one(step, context, z)
        ladj = ladj + more
    return z, ladj


def _one(step: MaskedAutoregressiveTransform, context: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    P = y.shape[-1]
    first, *middle, last = step.hyper
    weight = first.mask * first.weight
    given = torch.nn.functional.linear(context, weight[:, P:], first.bias)  # (B, H)
    weight, heads = weight[:, :P], (last.mask * last.weight).unflatten(0, (P, step.total))
    offsets = last.bias.unflatten(0, (P, step.total))
    x, ladj = torch.zeros_like(y), y.new_zeros(y.shape[:-1])
    for k in range(step.passes):
        at = torch.nonzero(step.order == k).flatten()
        h = torch.nn.functional.linear(x, weight) + given
        for layer in middle:
            h = layer(h)
        phi = torch.nn.functional.linear(h, heads[at].flatten(0, 1), offsets[at].flatten())
        f = step.univariate(*unpack(phi.unflatten(-1, (len(at), step.total)), step.shapes))
        found = f.inv(y[..., at])
        x = x.index_copy(-1, at, found)
        ladj = ladj + f.log_abs_det_jacobian(found, y[..., at]).sum(-1)
    return x, ladj
