r"""Events below a threshold, such as hypoxia: extent, detection rate, precision, Brier skill.

An event is where and when the truth is below the threshold. An analysis gives it the probability
p, the share of its members below; it tells one where p is a half or more. With weights w (areas,
zero where nothing is asked):

* base rate :math:`\sum w o / \sum w` and its kin told by the members' mean probability;
* detection rate, hits over events; precision, hits over events told;
* Brier score :math:`\langle (p - o)^2 \rangle`, less the excess
  :math:`\langle p (1 - p) \rangle / (M - 1)` of a finite ensemble (Ferro 2014,
  doi:10.1002/qj.2270), and its skill :math:`1 - B / B_c` over a reference;
* extent, the area of the event, frame by frame: truth, and members.
"""

from __future__ import annotations

__all__ = ["Events", "events"]

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Events:
    r"""What an analysis says of events.

    Attributes:
        base, told: Share of weight with an event, and the members' mean of it.
        detection, precision: NaN where there was no event, or none was told.
        brier: The fair Brier score.
        extent: Of the truth, in the units of the weights, with shape :math:`(L)`.
        extents: Of each member, with shape :math:`(M, L)`.
    """

    base: float
    told: float
    detection: float
    precision: float
    brier: float
    extent: np.ndarray
    extents: np.ndarray

    def skill(self, reference: Events) -> float:
        r"""Brier skill over a reference; NaN where that makes no error."""
        return 1 - self.brier / reference.brier if reference.brier else float("nan")


def events(
    members: np.ndarray, truth: np.ndarray, threshold: float, weights: np.ndarray
) -> Events:
    r"""Scores of the events `x < threshold`.

    Arguments:
        members: With shape :math:`(M, L, *grid)`; where the weight is zero anything.
        truth: With shape :math:`(L, *grid)`.
        threshold: In their units.
        weights: With the grid's shape, e.g. areas.
    """
    M, L = members.shape[:2]
    at = np.flatnonzero(np.ravel(weights) > 0)
    w = np.ravel(weights).astype(np.float64)[at]
    x = members.reshape(M, L, -1)[..., at] < threshold
    o = truth.reshape(L, -1)[:, at] < threshold
    p, total = x.mean(0), w.sum() * L
    excess = p * (1 - p) / (M - 1) if M > 1 else 0.0
    told = p >= 0.5

    def share(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * w).sum() / (b * w).sum()) if b.any() else float("nan")

    return Events(
        base=float((o * w).sum() / total),
        told=float((p * w).sum() / total),
        detection=share(told & o, o),
        precision=share(told & o, told),
        brier=float((((p - o) ** 2 - excess) * w).sum() / total),
        extent=o @ w,
        extents=x @ w,
    )
