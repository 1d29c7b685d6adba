r"""Is the model that made the analysis the one that made the data? Tests that keep their level.

Departures of the observations are summed up, for each group of rows g (a variable, an instrument,
a region), by features: the mean of O−B in told deviations, its mean square over the told one, and,
where there is an analysis, the same mean of O−A and Desroziers' product (O−A)(O−B) over the told
error variance. What these are when nothing is wrong is learnt from *withheld truths*: states that
the prior never saw, observed as the data were said to be, and put through the same steps. A null
from the prior's own samples would call every imperfect prior wrong.

With mean :math:`\mu` and covariance C of the features of withheld truths, and the mean change
:math:`v_h` that a fault h of known size makes to them, each fault has a matched filter,

.. math:: t_h = v_h^T C^{-1} (\phi - \mu) / (v_h^T C^{-1} v_h)^{1/2}.

The statistic is the largest :math:`t_h^2`. Its p-value is its rank among withheld truths that had
no part in :math:`\mu, C`: exact at any size, for whatever distribution (Dufour 2006,
doi:10.1016/j.jeconom.2005.06.007). If it is significant, the fault of the largest :math:`t_h^2` is
named, unless others explain the data nearly as well (within the 95% point of :math:`\chi^2_1`), or
do nearly the same to all features: then the answer is *cannot tell*, with their names. A bias of
all observations and a shift of the prior's mean are such a pair, when they do the same to every
group.
"""

from __future__ import annotations

__all__ = ["CANNOT_TELL", "CONSISTENT", "Misspecification", "effective_number", "features"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import BadInput

CONSISTENT, CANNOT_TELL = "consistent", "cannot tell"
ALIKE = 0.9  # cosine, in terms of C, of faults that cannot be told apart
SMALL = 1e-6  # variance of a combination of features, of one, that counts as none
NEAR = 3.841  # 95% point of chi2 with one degree of freedom


def features(sums: Any, analysis: bool = True) -> np.ndarray:
    r"""Features of departures.

    Arguments:
        sums: `count`, `sigma2`, `d_b`, `d2_b`, `v2_b` and, with an analysis, `d_a` and `cross`, as
            in `InnovationSums`, with shape :math:`(..., L, G)`.
        analysis: Whether to use O−A.

    Returns:
        With shape :math:`(..., F G)`: two or four features of each group.

    Raises:
        BadInput: If a group has no rows.
    """
    total = lambda name: np.asarray(getattr(sums, name), np.float64).sum(-2)  # noqa: E731
    n = total("count")
    if not (n > 0).all():
        raise BadInput("a group without observations", "misspecification", "Leave it out.")
    told, sigma2 = total("v2_b"), total("sigma2")
    out = [total("d_b") / np.sqrt(n * told), total("d2_b") / told]
    if analysis:
        out += [total("d_a") / np.sqrt(n * sigma2), total("cross") / sigma2]
    return np.concatenate(out, -1)


def effective_number(covariance: np.ndarray, steps: np.ndarray | None = None) -> float:
    r"""Independent departures that D correlated ones are worth, :math:`(tr S)^2 / tr S^2`.

    Arguments:
        covariance: S of the departures of a frame.
        steps: Correlation of the frames, :math:`(L, L)`; one frame by default.
    """
    one = np.trace(covariance) ** 2 / np.square(covariance).sum()
    return float(one if steps is None else one * len(steps) ** 2 / np.square(steps).sum())


class Misspecification:
    r"""The test, made from withheld truths and from faults put into them.

    Arguments:
        null: Features of withheld truths, with shape :math:`(N, P)`; the first half gives
            :math:`\mu` and C, the second the distribution of the statistic.
        faults: Features of withheld truths with each fault, :math:`(N', P)`; where N' ≤ N, row i
            is the same truth and noise as row i of `null`.
        level: :math:`\alpha`.

    Raises:
        BadInput: With fewer truths than three times the features, or too few for the level.
    """

    def __init__(
        self, null: np.ndarray, faults: Mapping[str, np.ndarray], level: float = 0.05
    ) -> None:
        half = len(null) // 2
        if half < 3 * null.shape[1] or half + 1 < 1 / level:
            need = 2 * max(3 * null.shape[1], int(np.ceil(1 / level)))
            raise BadInput(
                f"{len(null)} withheld truths for {null.shape[1]} features at α = {level:g}",
                "misspecification",
                f"Use {need} or more, or fewer groups.",
            )
        self.level, self.names = level, list(faults)
        fit = null[:half]
        self.mean = fit.mean(0)
        # Groups may overlap and add up to each other: what never varies tells nothing.
        scale = np.where(fit.std(0) > 0, fit.std(0), np.inf)
        size, vectors = np.linalg.eigh(np.cov(((fit - self.mean) / scale).T))
        keep = size > SMALL
        self._whiten = (vectors[:, keep] / np.sqrt(size[keep])) / scale[:, None]
        v = np.stack([(f - null[: len(f)]).mean(0) for f in faults.values()])
        self.directions = self._white(v + self.mean)
        self.directions /= np.linalg.norm(self.directions, axis=1, keepdims=True)
        self._cosine = np.abs(self.directions @ self.directions.T)
        self._reference = np.sort(self.statistics(null[half:]).max(1))

    def _white(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) @ self._whiten

    def statistics(self, x: np.ndarray) -> np.ndarray:
        r""":math:`t_h^2` of features :math:`(N, P)`, with shape :math:`(N, H)`."""
        return (self._white(x) @ self.directions.T) ** 2

    def p_values(self, x: np.ndarray) -> np.ndarray:
        r"""Of features :math:`(N, P)`: the share of withheld truths at least as strange."""
        t = self.statistics(x).max(1)
        above = len(self._reference) - np.searchsorted(self._reference, t, "left")
        return (1 + above) / (1 + len(self._reference))

    def alike(self) -> dict[str, list[str]]:
        r"""Faults that do nearly the same to the features, up to its size."""
        return {
            n: [m for j, m in enumerate(self.names) if j != i and self._cosine[i, j] > ALIKE]
            for i, n in enumerate(self.names)
        }

    def judge(self, x: np.ndarray) -> list[dict[str, Any]]:
        r"""Verdicts on features :math:`(N, P)`.

        Returns:
            `{"p", "told", "candidates"}`: told is `consistent`, a fault, or `cannot tell`; the
            candidates are the faults that explain the data, best first.
        """
        t2, p = self.statistics(x), self.p_values(x)
        out = []
        for row, chance in zip(t2, p, strict=True):
            if chance > self.level:
                out.append({"p": float(chance), "told": CONSISTENT, "candidates": []})
                continue
            order = np.argsort(-row)
            best = order[0]
            near = [
                self.names[k]
                for k in order
                if row[best] - row[k] < NEAR or self._cosine[best, k] > ALIKE
            ]
            told = near[0] if len(near) == 1 else CANNOT_TELL
            out.append({"p": float(chance), "told": told, "candidates": near})
        return out
