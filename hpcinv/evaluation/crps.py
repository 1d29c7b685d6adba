r"""The continuous ranked probability score of an ensemble.

.. math:: \text{CRPS} = \frac{1}{M} \sum_i |x_i - y| - \frac{1}{2 K} \sum_{i, j} |x_i - x_j|

with :math:`K = M^2` for the score of the empirical distribution (Gneiting & Raftery 2007,
doi:10.1198/016214506000001437) and :math:`K = M (M - 1)` for the fair score, which judges the
distribution the members were drawn from whatever their number (Ferro 2014,
doi:10.1002/qj.2270).
"""

from __future__ import annotations

__all__ = ["crps"]

import numpy as np


def crps(members: np.ndarray, y: np.ndarray, fair: bool = True) -> np.ndarray:
    r"""CRPS at every point; a single member's is its absolute error.

    Arguments:
        members: Ensemble, with shape :math:`(M, ...)`.
        y: Truth, with the shape of one member.
        fair: Whether to judge the distribution behind the members.

    Returns:
        The scores, with the shape of y, in its units.
    """
    x = np.sort(np.asarray(members, np.float64), axis=0)
    return _of_sorted(x, np.asarray(y, np.float64), fair)


def _of_sorted(x: np.ndarray, y: np.ndarray, fair: bool = True) -> np.ndarray:
    M = len(x)
    error = np.abs(x - y).mean(0)
    if M == 1:
        return error
    # Σ_{i<j} |x_i − x_j| = Σ_k (2k − M − 1) x_(k), members sorted.
    k = (2.0 * np.arange(1, M + 1) - M - 1).reshape(-1, *[1] * y.ndim)
    pairs = (k * x).sum(0)
    return error - pairs / (M * (M - 1) if fair else M * M)
