r"""Count, mean and squared deviations of frames by their phase, made in parts and merged.

Every process keeps those of its own frames; two sets merge into those of both (Chan, Golub &
LeVeque, 1983, https://doi.org/10.1080/00031305.1983.10483115, eqs. 2.1): nobody reads another's
frames. Merged in the same order they are the same bits, whoever made the parts.
"""

from __future__ import annotations

__all__ = ["PhaseMoments"]

from collections.abc import Mapping, Sequence

import numpy as np


class PhaseMoments:
    r"""Moments of frames, nothing yet.

    Arguments:
        phases: The number P of phases.
        shape: The shape :math:`(C, *grid)` of a state.
    """

    def __init__(self, phases: int, shape: Sequence[int]) -> None:
        self.count = np.zeros(phases, np.int64)
        self.mean, self.spread = np.zeros((2, phases, *shape))

    def add(self, x: np.ndarray, phases: np.ndarray) -> None:
        r"""Takes in frames.

        Arguments:
            x: States, with shape (n, C, *grid).
            phases: The phase of each, with shape (n).
        """
        for p in np.unique(phases):
            new = x[phases == p].astype(np.float64)
            mean = new.mean(0)
            self._merge(p, len(new), mean, ((new - mean) ** 2).sum(0))

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        r"""Takes in what another set's `arrays` gave."""
        for p, n in enumerate(arrays["count"]):
            if n:
                self._merge(p, int(n), arrays["mean"][p], arrays["spread"][p])

    def _merge(self, p: int, n: int, mean: np.ndarray, spread: np.ndarray) -> None:
        had, both = self.count[p], self.count[p] + n
        self.spread[p] += spread + (mean - self.mean[p]) ** 2 * (had * n / both)
        self.mean[p] += (mean - self.mean[p]) * (n / both)
        self.count[p] = both

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        r"""What is to be kept of it: count (P), mean and spread (P, C, *grid)."""
        return {"count": self.count, "mean": self.mean, "spread": self.spread}
