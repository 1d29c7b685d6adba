r"""A sensor that saturates, seen by states that are uncertain.

At one state the derivative of clip(u, a, b) is one or nothing: a state that has just passed the
limit is told nothing more, one just below it that it is exactly there. Of an uncertain
:math:`u \sim N(m, s^2)` the best affine approximation of clip(u) has the value E[clip(u)], the
slope E[clip'(u)] (Stein's lemma: the derivative of that value with respect to m) and leaves a
remainder of known variance: statistical linearisation (Gelb, Applied Optimal Estimation, 1974,
section 6.2).
"""

from __future__ import annotations

__all__ = ["expected", "remainder"]

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

FAR = 40.0  # deviations beyond which nothing is


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def expected(m: Tensor, s: Tensor, low: float | None, high: float | None) -> Tensor:
    r"""E[clip(u, low, high)] of u ~ N(m, s²); differentiable in m."""

    def above(limit: float) -> Tensor:  # E[max(u − limit, 0)]
        z = (m - limit) / s
        return (m - limit) * torch.special.ndtr(z) + s * _density(z)

    s = s.clamp_min(torch.finfo(s.dtype).tiny)
    out = m if low is None else low + above(low)
    return out if high is None else out - above(high)


def remainder(m: Tensor, s: Tensor, low: float | None, high: float | None) -> Tensor:
    r"""Variance of clip(u) that E[clip(u)] + E[clip'(u)] (u − m) leaves unexplained."""
    s = s.clamp_min(torch.finfo(s.dtype).tiny)
    # An absent limit is one that is never met.
    a = ((low - m) / s).clamp(-FAR, FAR) if low is not None else torch.full_like(m, -FAR)
    b = ((high - m) / s).clamp(-FAR, FAR) if high is not None else torch.full_like(m, FAR)
    P, Q = torch.special.ndtr(a), torch.special.ndtr(b)
    slope = Q - P
    # Moments of clip((u − m) / s), which has the limits a and b.
    first = a * P + b * (1 - Q) + _density(a) - _density(b)
    second = a**2 * P + b**2 * (1 - Q) + slope + a * _density(a) - b * _density(b)
    return s**2 * (second - first**2 - slope**2).clamp_min(0)
