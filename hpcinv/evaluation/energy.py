r"""The energy score: the CRPS of a whole field at once.

For members :math:`x_i` of a field and its truth y, with the norm of the area-weighted mean square,

.. math:: ES = \frac1M \sum_i \|x_i - y\| - \frac{1}{2 M (M - 1)} \sum_{i \ne j} \|x_i - x_j\|

judges the distribution that the members come from, correlations between places included (Gneiting
& Raftery 2007, doi:10.1198/016214506000001437; fair as in Ferro 2014). In one dimension it is the
fair CRPS.

A norm is a sum over points, so a field may come in blocks of them; distances between members are
summed for `TILE` × `TILE` of them at a time. Memory so depends neither on the members nor on the
field, at the price of reading it again for each pair of tiles.
"""

from __future__ import annotations

__all__ = ["Distances", "energy"]

from collections.abc import Callable, Iterable, Iterator

import numpy as np

NEAR = 1e-6  # squared distances this far below the norms are taken again without cancellation
TILE = 512  # members
AGAIN = 1 << 20  # numbers of distances taken again at once

Blocks = Callable[..., Iterable[tuple[list[np.ndarray], np.ndarray, np.ndarray]]]


class Distances:
    r"""Sums of the distances between members, a block of points at a time.

    Arguments:
        rows, columns: The members, ranges of their numbers; the same twice, or disjoint.
    """

    def __init__(self, rows: range, columns: range) -> None:
        self.same = rows == columns
        self._squared = np.zeros((len(rows), len(columns)))

    def add(self, a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> None:
        r"""Adds points. Arguments: members (I, n) and (J, n), weights (n)."""
        root = np.sqrt(weights)
        origin = a[:1].astype(np.float64)
        d = (a - origin) * root
        e = d if self.same else (b - origin) * root
        near, far = np.einsum("in,in->i", d, d), np.einsum("jn,jn->j", e, e)
        squared = d @ e.T
        squared *= -2
        squared += near[:, None]
        squared += far
        i, j = np.nonzero(squared < NEAR * (near[:, None] + far))
        if self.same:
            i, j = i[i < j], j[i < j]
        size = max(1, AGAIN // max(d.shape[1], 1))
        for k in range(0, len(i), size):
            p, q = i[k : k + size], j[k : k + size]
            squared[p, q] = np.square(d[p] - e[q]).sum(1)
        self._squared += squared

    def total(self) -> float:
        r"""Sum of the distances, each pair once."""
        root = np.sqrt(np.maximum(self._squared, 0))
        return float((np.triu(root, 1) if self.same else root).sum())


def energy(blocks: Blocks, members: int, weight: float) -> float:
    r"""Energy score of one field, in its units; a single member's is its distance.

    Arguments:
        blocks: Gives, of one or two ranges of members, their field block by block: a list of
            members :math:`(m, n)`, one for each range, the truth :math:`(n)` and the weights
            :math:`(n)`.
        members: Their number :math:`M`.
        weight: The sum of all weights.
    """
    apart, pairs = np.zeros(members), 0.0
    for rows, columns in _tiles(members):
        sums = Distances(rows, columns)
        if sums.same:
            for (x,), y, w in blocks(rows):
                apart[rows] += np.square(x - y.astype(np.float64)) @ w
                sums.add(x, x, w)
        else:
            for (x, z), _, w in blocks(rows, columns):
                sums.add(x, z, w)
        pairs += sums.total()
    score = np.sqrt(apart / weight).mean()
    if members == 1:
        return float(score)
    return float(score - pairs / np.sqrt(weight) / (members * (members - 1)))


def _tiles(members: int) -> Iterator[tuple[range, range]]:
    tiles = [range(a, min(a + TILE, members)) for a in range(0, members, TILE)]
    for k, rows in enumerate(tiles):
        for columns in tiles[k:]:
            yield rows, columns
