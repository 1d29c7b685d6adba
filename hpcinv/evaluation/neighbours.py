r"""What other observations tell of a row: contrasts that a smooth field's own scatter leaves out.

A departure from a climatology is mostly weather, which neighbouring rows share: an error of one
instrument shows much better in its difference from what the others predict of its places. Of
departures z in units of their deviations, :math:`r = (z - W z) / \sqrt{1 - w \cdot c}`, with W the
optimal interpolation from the nearest rows of the same frame, variable and level that another
instrument (or station) made, for a Gaussian correlation of departures of one length.
"""

from __future__ import annotations

__all__ = ["LENGTHS", "contrast", "sharpest"]

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models.sphere import EARTH_RADIUS_KM, unit_vectors

LENGTHS = (200.0, 400.0, 800.0, 1600.0, 3200.0)  # km
NEAREST = 12


def contrast(table: Any, of: np.ndarray, share: np.ndarray, length: float) -> Any:
    r"""The matrix from z to r, sparse, :math:`(D, D)`; rows without neighbours are zero.

    Arguments:
        table: The rows, with places.
        of: What made each row, with shape :math:`(D)`.
        share: Of each departure's variance that is the background's, with shape :math:`(D)`.
        length: Of the correlation, km.
    """
    from scipy.sparse import coo_matrix
    from scipy.spatial import cKDTree

    D, root = len(table), np.sqrt(share)
    where = EARTH_RADIUS_KM * unit_vectors(table.lat, table.lon)
    level = np.nan_to_num(table.level, nan=-9e9)
    made = np.unique(of, return_inverse=True)[1].reshape(-1)
    keys = np.stack([table.frame, table.channel, np.unique(level, return_inverse=True)[1]])
    group = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    rows, columns, weights = [], [], []
    for at in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        k = min(2 * NEAREST, len(at))
        _, index = cKDTree(where[at]).query(where[at], k)
        index = at[index.reshape(len(at), k)]
        near = made[index] != made[at][:, None]
        near &= np.cumsum(near, 1) <= NEAREST
        b, s = where[index], root[index]
        S = np.exp(-((b[:, :, None] - b[:, None]) ** 2).sum(-1) / (2 * length**2))
        S = S * s[:, :, None] * s[:, None] * (near[:, :, None] & near[:, None])
        i = np.arange(k)
        S[:, i, i] = 1.0
        c = np.exp(-((b - where[at][:, None]) ** 2).sum(-1) / (2 * length**2))
        c = c * s * root[at][:, None] * near
        w = np.linalg.solve(S, c[..., None])[..., 0]
        size = near.any(1) / np.sqrt(np.maximum(1 - (w * c).sum(1), 0.01))
        rows += [at, np.repeat(at, k)]
        columns += [at, index.reshape(-1)]
        weights += [size, (-w * size[:, None]).reshape(-1)]
    return coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), (D, D)
    ).tocsr()


def sharpest(table: Any, of: np.ndarray, share: np.ndarray, z: Sequence[np.ndarray]) -> Any:
    r"""The contrast of the length that explains departures z best; None without any neighbours.

    What is least is the Gaussian's negative log-likelihood of each row given its neighbours, so
    that a small contrast does not win by being divided by little.
    """
    if not len(table) or np.isnan(table.lat).any():
        return None
    best, least = None, np.inf
    for length in LENGTHS:
        matrix = contrast(table, of, share, length)
        size = matrix.diagonal()
        at = size > 0
        if not at.any():
            return None
        cost = np.mean([((matrix @ x)[at] ** 2).mean() for x in z]) - 2 * np.log(size[at]).mean()
        if cost < least:
            best, least = matrix, cost
    return best
