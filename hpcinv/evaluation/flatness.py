r"""Is a rank histogram flat? A test that knows that frames resemble their neighbours.

Two contrasts of the histogram, orthonormal over its bins: a slope (the ensemble is biased) and a
bow (it is too narrow, or too wide), the two ways in which ensembles fail (Jolliffe & Primo 2008,
doi:10.1175/2007MWR2219.1). A frame is one observation of both, however many points it has: points
of a map are no independent draws. The covariance of their mean is inflated by
:math:`(1 + r) / (1 - r)` with the lag-1 correlation r of the frames, each its own; Hotelling's
:math:`T^2` with the effective number of frames gives the p-value of both together (Zwiers & von
Storch 1995, doi:10.1175/1520-0442(1995)008<0336:TSCIAI>2.0.CO;2).
"""

from __future__ import annotations

__all__ = ["contrasts", "flatness"]

from typing import Any

import numpy as np

FEWEST = 6.0  # effective frames for a verdict


def contrasts(bins: int) -> np.ndarray:
    r"""Slope and bow over the bins, orthonormal, each summing to zero: (2, bins)."""
    k = np.linspace(-1, 1, bins)
    slope = k / np.linalg.norm(k)
    bow = k**2 - np.mean(k**2)
    return np.stack([slope, bow / np.linalg.norm(bow)])


def flatness(ranks: np.ndarray) -> dict[str, Any] | None:
    r"""The test.

    Arguments:
        ranks: Weight of each rank in each frame, in order of time: :math:`(L, M + 1)`.

    Returns:
        `{"slope", "bow", "p", "frames"}`: contrasts in units of their deviations (a positive bow:
        the truth is too often outside), the p-value, and the effective number of frames. None with
        two members or fewer, too few frames, or a histogram that never varies.
    """
    from scipy.stats import f

    L, bins = ranks.shape
    if bins < 4 or L < FEWEST:
        return None
    h = ranks / ranks.sum(1, keepdims=True)
    c = (h - 1 / bins) @ contrasts(bins).T
    mean = c.mean(0)
    d = c - mean
    variance = (d**2).mean(0)
    if not (variance > 0).all():
        return None
    r = (d[1:] * d[:-1]).mean(0) / variance
    r = np.clip(r + (1 + 4 * r) / L, 0, 0.95)  # the estimate of a short series is too low
    n = float(min(L * (1 - r) / (1 + r)))
    S = np.cov(d.T) / L * np.sqrt(np.outer((1 + r) / (1 - r), (1 + r) / (1 - r)))
    if n < FEWEST or not np.linalg.det(S) > 0:
        return None
    t2 = float(mean @ np.linalg.solve(S, mean))
    p = f.sf(t2 * (n - 2) / (2 * (n - 1)), 2, n - 2)
    z = mean / np.sqrt(np.diag(S))
    return {"slope": float(z[0]), "bow": float(z[1]), "p": float(p), "frames": n}
