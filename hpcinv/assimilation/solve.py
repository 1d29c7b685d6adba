r"""Conjugate gradients and GMRES for many small coupled systems at once.

A system belongs to one (member, system) pair: with one system per member the trajectory is solved
jointly, with one per window each window by itself. Rows are independent: a pair that has converged
or failed is frozen while others go on, so a member's answer never depends on its neighbours.
Products return, beside M p, the image C Aᵀp in state space, whose combination with the same
coefficients is the correction of the mean: no product is spent on it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "cg", "gmres"]

Image = list[Tensor]


@dataclass
class Solution:
    r"""
    Arguments:
        image: Σ_k a_k C Aᵀ p_k in state space.
        weights: w = Σ_k a_k p_k, with shape ``(B, D)``. For I + S with a positive S, ‖w‖² ≤
            w·(I + S)w = w·b, so that w is no larger than b: a larger one tells that S is not.
        residual: Relative residual, with shape ``(B, systems)``.
        failed: Pairs whose matrix was not positive, or values not finite, at the first product.
        cut: Pairs stopped early because their matrix was found not positive.
    """

    image: Image
    weights: Tensor
    residual: Tensor
    failed: Tensor
    cut: Tensor
    products: int


def cg(
    product: Callable[[Tensor], tuple[Tensor, Image]],
    b: Tensor,
    dot: Callable[[Tensor, Tensor], Tensor],
    spread: Callable[[Tensor], Tensor],
    combine: Callable[[Image | None, Tensor, Image], Image],
    iterations: int,
    tolerance: float = 0.0,
) -> Solution:
    r"""Conjugate gradients from zero, in double precision.

    Arguments:
        product: Maps p ``(B, D)`` to M p and its image.
        b: The right-hand side, with shape ``(B, D)``.
        dot: Inner products of two vectors, with shape ``(B, systems)``; a collective.
        spread: Repeats coefficients ``(B, systems)`` over the vectors' entries.
        combine: Adds coefficients times an image to another.
    """

    r = b.double()
    rr = first = dot(r, r)
    p, image, w = r, None, torch.zeros_like(r)
    going = first > 0
    failed, cut = torch.zeros_like(going), torch.zeros_like(going)
    zero = torch.zeros_like(rr)

    for k in range(iterations):
        Mp, q = product(p)
        Mp = Mp.double()
        pMp = dot(p, Mp)
        bad = going & ~((pMp > 0) & torch.isfinite(pMp))
        failed |= bad if k == 0 else torch.zeros_like(bad)
        cut |= bad if k > 0 else torch.zeros_like(bad)
        going = going & ~bad
        a = torch.where(going, rr / torch.where(going, pMp, 1.0), zero)
        image = combine(image, a, q)
        # Frozen pairs keep their residual; 0 × inf must not leak into it.
        moving = spread(going.double()) > 0
        r = r - torch.where(moving, spread(a) * Mp, 0.0)
        w = w + torch.where(moving, spread(a) * p, 0.0)
        new = dot(r, r)
        going = going & (new > first * tolerance**2) & (new > 0)
        beta = torch.where(going, new / torch.where(rr > 0, rr, 1.0), zero)
        p = r + spread(beta) * p
        rr = new
        if k + 1 < iterations and not bool(going.any()):
            break

    size = torch.where(first > 0, first, 1.0)

    return Solution(image, w, (rr / size).sqrt(), failed, cut, k + 1)


def gmres(
    product: Callable[[Tensor], tuple[Tensor, Image]],
    b: Tensor,
    dot: Callable[[Tensor, Tensor], Tensor],
    spread: Callable[[Tensor], Tensor],
    combine: Callable[[Image | None, Tensor, Image], Image],
    iterations: int,
    tolerance: float = 0.0,
    rounding: float = 1e-14,
) -> Solution:
    r"""Generalised minimal residuals from zero (Arnoldi with Givens rotations), in double.

    Takes the same arguments as `cg`, and the relative error of a product. The matrix may be
    non-symmetric.
    """

    tiny = torch.finfo(torch.float64).tiny
    r = b.double()
    norm = dot(r, r).sqrt()
    going = norm > 0
    basis = [r / spread(norm.clamp(min=tiny))]
    images: list[Image] = []
    H: list[list[Tensor]] = []  # columns, rotated
    g = [norm]
    rotations: list[tuple[Tensor, Tensor]] = []
    one, zero = torch.ones_like(norm), torch.zeros_like(norm)

    for _ in range(iterations):
        w, q = product(basis[-1])
        w = w.double()
        whole = dot(w, w).sqrt()
        images.append(q)
        column = []
        for v in basis:
            h = dot(w, v)
            column.append(h)
            w = w - spread(h) * v
        n = dot(w, w).sqrt()
        n = torch.where(n > rounding * whole, n, zero)  # what is left is no new direction
        basis.append(torch.where(spread(n) > 0, w / spread(n.clamp(min=tiny)), 0.0))
        for i, (c, s) in enumerate(rotations):
            column[i], column[i + 1] = (
                c * column[i] + s * column[i + 1],
                c * column[i + 1] - s * column[i],
            )
        h = column[-1]
        size = (h * h + n * n).sqrt()
        ok = going & (size > 0) & torch.isfinite(size)
        c = torch.where(ok, h / torch.where(ok, size, 1.0), one)
        s = torch.where(ok, n / torch.where(ok, size, 1.0), zero)
        rotations.append((c, s))
        column[-1] = torch.where(ok, size, one)  # a frozen direction gets coefficient 0
        H.append(column)
        last = torch.where(ok, g[-1], zero)
        g[-1] = c * last
        g.append(torch.where(ok, -s * last, g[-1] * 0))
        going = ok & (g[-1].abs() > tolerance * norm)
        if not bool(going.any()):
            break

    m = len(H)
    y: list[Tensor] = [zero] * m
    for i in reversed(range(m)):
        total = g[i]
        for j in range(i + 1, m):
            total = total - H[j][i] * y[j]
        y[i] = total / H[i][i]
    image: Image | None = None
    failed = torch.zeros_like(norm, dtype=torch.bool)
    weights = torch.zeros_like(r)
    for a, v, q in zip(y, basis, images, strict=False):  # the last of the basis has no image
        failed |= ~torch.isfinite(a)
        a = torch.where(torch.isfinite(a), a, zero)
        weights = weights + torch.where(spread(a) == 0, 0.0, spread(a) * v)
        image = combine(image, a, q)
    residual = g[-1].abs() / norm.clamp(min=tiny)

    return Solution(image, weights, residual, failed, torch.zeros_like(failed), m)
