r"""Count, mean and squared deviations of frames by their phase, made in parts and merged.

Every process keeps those of its own frames; two sets merge into those of both (Chan, Golub &
LeVeque, 1983, https://doi.org/10.1080/00031305.1983.10483115, eqs. 2.1): nobody reads another's
frames. Merged in the same order they are the same bits, whoever made the parts.
"""

from __future__ import annotations

__all__ = ["PhaseMoments"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..parallel import World


class PhaseMoments:
    r"""Moments of frames, nothing yet.

    Arguments:
        phases: The number P of phases.
        shape: The shape :math:`(C, *grid)` of a state.
        weights: Of the points, with the grid's shape and sum 1: one mean and one deviation for
            all points of a channel, whose arrays then have the shape (P, C, 1...).
    """

    def __init__(
        self, phases: int, shape: Sequence[int], weights: np.ndarray | None = None
    ) -> None:
        self.count, self._weights = np.zeros(phases, np.int64), weights
        if weights is not None:
            shape = shape[0], *[1] * weights.ndim
        self.mean, self.spread = np.zeros((2, phases, *shape))

    def add(self, x: np.ndarray, phases: np.ndarray) -> None:
        r"""Takes in frames.

        Arguments:
            x: States, with shape (n, C, *grid).
            phases: The phase of each, with shape (n).
        """
        for p in np.unique(phases):
            new = x[phases == p].astype(np.float64)
            mean = self._pooled(new.mean(0))
            new -= mean
            self._merge(p, len(new), mean, self._pooled(np.square(new, out=new).sum(0)))

    def _pooled(self, x: np.ndarray) -> np.ndarray:
        r"""The weighted mean over points of a state, or the state as it is."""
        if self._weights is None:
            return x
        return (self._weights * x).sum(tuple(range(1, x.ndim)), keepdims=True)

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        r"""Takes in what another set's `arrays` gave."""
        for p, n in enumerate(arrays["count"]):
            if n:
                self._merge(p, int(n), arrays["mean"][p], arrays["spread"][p])

    def shared(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean and squared deviations of the frames of all ranks, each of which keeps its own.

        A phase that no rank has seen has a mean of 0.
        """
        mine = self.count.reshape(-1, *[1] * (self.mean.ndim - 1))
        n = world.all_reduce(self.count.astype(np.float64)).reshape(mine.shape)
        mean = world.all_reduce(mine * self.mean) / np.maximum(n, 1)
        return mean, world.all_reduce(self.spread + mine * (self.mean - mean) ** 2)

    def _merge(self, p: int, n: int, mean: np.ndarray, spread: np.ndarray) -> None:
        had, both = self.count[p], self.count[p] + n
        self.spread[p] += spread + (mean - self.mean[p]) ** 2 * (had * n / both)
        self.mean[p] += (mean - self.mean[p]) * (n / both)
        self.count[p] = both

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        r"""What is to be kept of it: count (P), mean and spread (P, C, *grid)."""
        return {"count": self.count, "mean": self.mean, "spread": self.spread}
