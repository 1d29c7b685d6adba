r"""Fields on levels that end at a floor which is deeper here than there.

A network wants a number in every cell. Below the floor a variable repeats its lowest level that
has one, so that no edge is there which a convolution would have to learn; what is repeated is
known, and counts for nothing where errors are weighed.
"""

from __future__ import annotations

__all__ = ["SeaFloor"]

from collections.abc import Sequence

import numpy as np


class SeaFloor:
    r"""Where levels lie below the floor, from one state.

    Arguments:
        there: Where a state has values, with shape :math:`(C, *grid)`.
        variables: The variable of each channel; its levels follow each other.

    Attributes:
        mask: Where any channel has a value (elsewhere is land), with the grid's shape.
        below: Where a channel lies below the floor, with shape :math:`(C, *grid)`.
    """

    def __init__(self, there: np.ndarray, variables: Sequence[str]) -> None:
        self.mask = there.any(0)
        self.below = self.mask & ~there
        names = np.asarray(variables)
        self._source = np.empty(there.shape, np.int64)
        for c, name in enumerate(names):
            # The nearest level that is there: a floor has the others on one side of it.
            own = np.flatnonzero(names == name)
            own = own[np.argsort(np.abs(own - c), kind="stable")]
            self._source[c] = np.where(there[own].any(0), own[there[own].argmax(0)], c)

    def fill(self, x: np.ndarray) -> np.ndarray:
        r"""Repeats the lowest level below the floor, in states of shape :math:`(n, C, *grid)`."""
        found = np.take_along_axis(x, self._source[None], axis=1)
        return np.where(self.below, found, x)
