r"""Could the simulator have produced this observation? Statistics with p-values.

An amortised posterior answers for any x, also for one far from all that was simulated. Each
statistic here grows with that distance; its p-value is its rank among those of withheld
simulations, which is exact whatever the statistic is: if the observation is a draw of the
simulator (parameters of the prior, noise included), p-values below :math:`\alpha` come with
probability at most :math:`\alpha`.

* *predictive*: mean square of the observation's departures from its own posterior predictive
  draws, in their deviations. It sees what no parameters can explain, if the posterior is not much
  wider than the noise.
* *best fit*: what is left of x, in deviations of the noise, at the parameters that fit it best
  (:func:`hpcinv.inference.best_fit.best_fit`). It does so whatever the posterior.
* *embedding*: Mahalanobis distance of what the networks make of x from what they make of
  simulations (Schmitt et al., 2023). It sees where the networks were not trained.
* *data*: the same of x itself, for observations of few enough numbers.
"""

from __future__ import annotations

__all__ = ["Distance", "departure", "p_values"]

from collections.abc import Mapping
from typing import Any

import numpy as np

LARGE = 512  # numbers of an observation beyond which its own distance is not taken


def departure(x: np.ndarray, predictive: np.ndarray) -> np.ndarray:
    r"""Mean square departure of observations from their predictive draws.

    Arguments:
        x: Observations, NaN where missing, with shape (B, *S).
        predictive: Draws, with shape (B, M, *S); those that failed are NaN.

    Returns:
        With shape (B); infinite where no draw could be simulated.
    """
    B, M = predictive.shape[:2]
    x, draws = x.reshape(B, -1).astype(np.float64), predictive.reshape(B, M, -1).astype(np.float64)
    whole = np.isfinite(draws).all(-1)
    out = np.full(B, np.inf)
    for i in range(B):
        d = draws[i, whole[i]]
        seen = np.isfinite(x[i])
        if len(d) < 2 or not seen.any():
            continue
        d = d[:, seen]
        # Of M draws the mean and the deviation err too; every observation has as many.
        spread = np.maximum(d.std(0, ddof=1), 1e-6 * np.abs(d).max())
        out[i] = np.mean(((x[i, seen] - d.mean(0)) / spread) ** 2)
    return out


class Distance:
    r"""Mahalanobis distance from some points, the covariance shrunk a little to its diagonal.

    Arguments:
        points: With shape (n, D).
        shrink: The share of the diagonal.
    """

    def __init__(self, points: np.ndarray, shrink: float = 0.02) -> None:
        p = np.asarray(points, np.float64)
        self.mean, self.std = p.mean(0), p.std(0)
        self.std = np.where(self.std > 0, self.std, 1.0)
        z = (p - self.mean) / self.std
        c = z.T @ z / max(len(z) - 1, 1)
        self.inverse = np.linalg.inv((1 - shrink) * c + shrink * np.eye(len(c)))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        r"""Squared distances of rows (B, D); what is missing counts as the mean."""
        z = np.nan_to_num((np.asarray(points, np.float64) - self.mean) / self.std)
        return np.einsum("bi,ij,bj->b", z, self.inverse, z)


def p_values(
    withheld: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    r"""Statistics and p-values of observations, by those of withheld simulations.

    Half of the withheld simulations say where simulations lie, the other half how far they lie
    from there: only so is the rank exact.

    Arguments:
        withheld: `x` (n, *S), `features` (n, F) and, where there are draws, `departure` (n), where
            there are fits `misfit` (n).
        observed: The same of B observations.

    Returns:
        For each statistic its `value` and `p` (B); `p`, their smallest times their number; and
        `simulations`, the number that p-values are made of at least.
    """
    n, B = len(withheld["x"]), len(observed["x"])
    half = n // 2
    pairs = {}
    if "departure" in withheld:
        pairs["predictive"] = withheld["departure"], observed["departure"]
    if "misfit" in withheld:
        pairs["best fit"] = withheld["misfit"], observed["misfit"]
    spaces = {"embedding": [o["features"] for o in (withheld, observed)]}
    if withheld["x"][0].size <= LARGE:
        spaces["data"] = [o["x"].reshape(len(o["x"]), -1) for o in (withheld, observed)]
    for name, (a, b) in spaces.items():
        if half > 2 * a.shape[1]:  # else the covariance is not known
            distance = Distance(a[:half])
            pairs[name] = distance(a[half:]), distance(b)
    out: dict[str, Any] = {}
    p = np.ones(B)
    for name, (a, b) in pairs.items():
        rank = (1 + len(a) - np.searchsorted(np.sort(a), b)) / (len(a) + 1)
        out[name] = {"value": [float(v) for v in b], "typical": float(np.median(a)),
                     "p": [float(v) for v in rank]}  # fmt: skip
        p = np.minimum(p, rank)
    combined = np.minimum(1.0, len(pairs) * p) if pairs else p
    return {"statistics": out, "p": [float(v) for v in combined],
            "simulations": n - half if spaces else n}  # fmt: skip
