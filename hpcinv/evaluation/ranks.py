r"""Bins of rank histograms and of probabilities: one for each, up to a number.

Histograms are kept for every frame. So that they do not grow with the members, those of more than
`BINS` - 1 share bins: a rank is spread evenly over the bins that it overlaps, by a random number,
which keeps the histogram of a reliable ensemble flat; a probability is rounded to the nearest of
`BINS`.
"""

from __future__ import annotations

__all__ = ["BINS", "bins", "nearest", "place"]

import numpy as np

BINS = 128


def bins(members: int) -> int:
    r"""Bins of the histograms of M members."""
    return min(members + 1, BINS)


def place(below: np.ndarray, within: np.ndarray | float, members: int) -> np.ndarray:
    r"""Bin of each rank.

    Arguments:
        below: Number of members below the truth.
        within: Random numbers in [0, 1), times one more than the members equal to the truth;
            where all ranks have a bin of their own, zero for no ties.
        members: :math:`M`.
    """
    at = np.floor((below + within) * (bins(members) / (members + 1))).astype(np.int64)
    return np.minimum(at, bins(members) - 1)


def nearest(count: np.ndarray, members: int) -> np.ndarray:
    r"""Bin of a probability, given by the number of members that say so."""
    if members < BINS:
        return count
    return np.rint(count * ((BINS - 1) / members)).astype(np.int64)
