r"""The energy score: the CRPS of a whole field at once.

For members :math:`x_i` of a field and its truth y, with the norm of the area-weighted mean square,

.. math:: ES = \frac1M \sum_i \|x_i - y\| - \frac{1}{2 M (M - 1)} \sum_{i \ne j} \|x_i - x_j\|

judges the distribution that the members come from, correlations between places included (Gneiting
& Raftery 2007, doi:10.1198/016214506000001437; fair as in Ferro 2014). In one dimension it is the
fair CRPS.
"""

from __future__ import annotations

__all__ = ["energy"]

import numpy as np

NEAR = 1e-6  # squared distances this far below the norms are taken again without cancellation


def energy(members: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    r"""Energy score of one field, in its units; a single member's is its distance.

    Arguments:
        members: With shape :math:`(M, n)`.
        y: The truth, with shape :math:`(n)`.
        weights: Of the points, with shape :math:`(n)`; they need not sum to one.
    """
    root = np.sqrt(np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64))
    d = (np.asarray(members, np.float64) - y) * root
    gram = d @ d.T
    own = gram.diagonal()
    score = np.sqrt(own).mean()
    M = len(d)
    if M == 1:
        return float(score)
    squared = own[:, None] + own - 2 * gram
    i, j = np.triu_indices(M, 1)
    pairs = squared[i, j]
    for k in np.flatnonzero(pairs < NEAR * (own[i] + own[j])):
        pairs[k] = np.square(d[i[k]] - d[j[k]]).sum()
    return float(score - np.sqrt(pairs).sum() / (M * (M - 1)))
