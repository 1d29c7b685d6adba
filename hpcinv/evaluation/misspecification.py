r"""Is the model that made the analysis the one that made the data? Tests that keep their level.

Departures of the observations are summed up, for each group of rows g (a variable, an instrument,
a region), by features: the mean of O−B in told deviations, its mean square over the told one, its
slope along what the background tells (values in wrong units, or of other places, depart with it),
and, where there is an analysis, the same mean of O−A and Desroziers' product (O−A)(O−B) over the
told error variance. What these are when nothing is wrong is learnt from *withheld truths*: states
that the prior never saw, observed as the data were said to be, and put through the same steps. A
null from the prior's own samples would call every imperfect prior wrong.

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

__all__ = [
    "CANNOT_TELL", "CONSISTENT", "Misspecification", "effective_number", "features", "fewest",
]  # fmt: skip

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput

CONSISTENT, CANNOT_TELL = "consistent", "cannot tell"
ALIKE = 0.9  # cosine, in terms of C, of faults that cannot be told apart
SMALL = 1e-6  # variance of a combination of features, of one, that counts as none
SEEN = 3.0  # deviations of its mean that a fault's change has to exceed
FLAT = 1e-9  # variance of what a background tells, of its square, that is none
NEAR = 3.841  # 95% point of chi2 with one degree of freedom


def features(sums: Any, analysis: bool = True) -> np.ndarray:
    r"""Features of departures.

    Arguments:
        sums: `count`, `sigma2`, `d_b`, `d2_b`, `v2_b` and, with an analysis, `d_a` and `cross`, as
            in `InnovationSums`; with m what the background tells, `told`, `told2` and `along` are
            sums of m, m² and m times O−B. All with shape :math:`(..., L, G)`.
        analysis: Whether to use O−A.

    Returns:
        With shape :math:`(..., F G)`: three or five features of each group.

    Raises:
        BadInput: If a group has no rows.
    """
    total = lambda name: np.asarray(getattr(sums, name), np.float64).sum(-2)  # noqa: E731
    n = total("count")
    if not (n > 0).all():
        raise BadInput("a group without observations", "misspecification", "Leave it out.")
    told, sigma2 = total("v2_b"), total("sigma2")
    out = [total("d_b") / np.sqrt(n * told), total("d2_b") / told]
    spread = np.maximum(total("told2") - total("told") ** 2 / n, 0)
    level = spread > FLAT * total("told2")  # else the background tells the same everywhere
    along = total("along") - total("told") * total("d_b") / n
    out.append(np.where(level, along / np.sqrt(np.where(level, spread * told, 1.0)), 0.0))
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


class _Fit:
    r"""Mean, covariance and faults' directions of features.

    The covariance is drawn to its diagonal by a share P / (P + truths): few truths leave
    combinations of features that never varied among them, and vary in the next.
    """

    def __init__(
        self, null: np.ndarray, changes: list[tuple[str, np.ndarray]], truths: int,
        periods: np.ndarray | None = None, every: bool = False,
    ) -> None:  # fmt: skip
        self.mean = null.mean(0)
        # Groups may overlap and add up to each other: what never varies tells nothing.
        scale = np.where(null.std(0) > 0, null.std(0), np.inf)
        C = np.cov(((null - self.mean) / scale).T)
        share = len(C) / (len(C) + max(truths, 1))
        C = (1 - share) * C + share * np.diag(np.diag(C))
        size, vectors = np.linalg.eigh(C)
        keep = size > SMALL
        self._whiten = (vectors[:, keep] / np.sqrt(size[keep])) / scale[:, None]
        self.seen, directions = [], []
        for name, change in changes:
            white = change @ self._whiten
            v = white.mean(0)
            if every or v @ v > SEEN**2 * _of_mean(white, periods):
                self.seen.append((name, change))
                directions.append(v / np.linalg.norm(v))
        if not directions:
            raise BadInput(
                "no fault changes what is observed", "misspecification",
                "The background tells the rows too badly, or there are too few of them.",
            )  # fmt: skip
        self.directions = np.stack(directions)

    def statistics(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean) @ self._whiten @ self.directions.T) ** 2


def _of_mean(x: np.ndarray, periods: np.ndarray | None) -> float:
    r"""Variance of the mean of rows x, all features together; those of a period are as one."""
    if periods is not None:
        _, which, m = np.unique(periods[: len(x)], return_inverse=True, return_counts=True)
        x = np.stack([np.bincount(which, column) / m for column in x.T], 1)
    return float(x.var(0).sum() / len(x))


def fewest(level: float) -> int:
    r"""Withheld periods of which data can be stranger than all at a level, and of which enough are
    left beside one and its neighbours."""
    return max(int(np.ceil(1 / level)) - 1, 5)


def _worth(t: np.ndarray, periods: np.ndarray) -> float:
    r"""Independent truths that rows t of some periods are worth, from their correlation within."""
    own, which, m = np.unique(periods, return_inverse=True, return_counts=True)
    n, N = len(own), len(t)
    mean = np.bincount(which, t) / m
    between = (m * (mean - t.mean()) ** 2).sum() / (n - 1)
    within = ((t - mean[which]) ** 2).sum() / max(N - n, 1)
    size = (N - (m**2).sum() / N) / (n - 1)
    r = np.clip((between - within) / max(between + (size - 1) * within, 1e-300), 0, 1)
    return float(N / (1 + (size - 1) * r))


class Misspecification:
    r"""The test, made from withheld truths and from faults put into them.

    Arguments:
        null: Features of withheld truths, with shape :math:`(N, P)`. Where all are independent,
            the first half gives :math:`\mu` and C, the second the distribution of the statistic.
        faults: Features of withheld truths with each fault, :math:`(N', P)`, N' ≤ N, row i of the
            same truth and noise as row i of `null`; or a list of these, for several sizes of a
            fault whose effect does not just grow in proportion.
        level: :math:`\alpha`.
        periods: Where truths were used more than once: the number, ascending in time, of the
            period that each row of `null` is from; a row may overlap the next period, too. Each
            period's statistics then come from :math:`\mu` and C of those that it does not
            overlap, and p-values count as many truths as the rows of so few are worth.

    Attributes:
        names: The faults that are looked for.
        unseen: Those that change no feature beyond the scatter of their change: stations that are
            mixed up where the background tells the same for all.

    Raises:
        BadInput: If no fault is seen, with fewer truths than three times the features, or too few
            for the level.
    """

    def __init__(
        self, null: np.ndarray, faults: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        level: float = 0.05, periods: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        half = len(null) // 2
        if half < 3 * null.shape[1] or half + 1 < 1 / level:
            need = 2 * max(3 * null.shape[1], int(np.ceil(1 / level)))
            raise BadInput(
                f"{len(null)} withheld truths for {null.shape[1]} features at α = {level:g}",
                "misspecification",
                f"Use {need} or more, or fewer groups.",
            )
        self.level = level
        changes = [
            (n, f - null[: len(f)])
            for n, sizes in faults.items()
            for f in ([sizes] if isinstance(sizes, np.ndarray) else sizes)
        ]
        if periods is None:
            self._fit = _Fit(null[:half], changes, half)
            t = self._fit.statistics(null[half:]).max(1)
            self._worth = float(len(t))
        else:
            own = np.unique(periods)
            if len(own) < fewest(level):
                raise BadInput(
                    f"{len(own)} withheld periods at α = {level:g}", "misspecification",
                    f"Use {fewest(level)} or more.",
                )  # fmt: skip
            self._fit = _Fit(null, changes, len(own), periods)
            t = np.empty(len(null))
            for k in own:
                apart = np.abs(periods - k) > 1
                fit = _Fit(null[apart], self._fit.seen, len(own) - 3, every=True)
                t[periods == k] = fit.statistics(null[periods == k]).max(1)
            self._worth = _worth(np.sqrt(t), periods)
        self._reference = np.sort(t)
        self._of = [n for n, _ in self._fit.seen]
        self.names = list(dict.fromkeys(self._of))
        self.unseen = [n for n in faults if n not in self.names]
        self._cosine = np.abs(self._fit.directions @ self._fit.directions.T)

    def statistics(self, x: np.ndarray) -> np.ndarray:
        r""":math:`t_h^2` of features :math:`(N, P)`, of each fault's best size: :math:`(N, H)`."""
        t = self._fit.statistics(x)
        of = np.array(self._of)
        return np.stack([t[:, of == n].max(1) for n in self.names], 1)

    def p_values(self, x: np.ndarray) -> np.ndarray:
        r"""Of features :math:`(N, P)`: the share of withheld truths at least as strange."""
        t = self.statistics(x).max(1)
        above = 1 - np.searchsorted(self._reference, t, "left") / len(self._reference)
        return (1 + self._worth * above) / (1 + self._worth)

    def alike(self) -> dict[str, list[str]]:
        r"""Faults that do nearly the same to the features, up to its size."""
        return {n: [m for m in self._near(self._rows(n)) if m != n] for n in self.names}

    def _rows(self, name: str) -> list[int]:
        return [k for k, n in enumerate(self._of) if n == name]

    def _near(self, rows: list[int]) -> list[str]:
        return [n for n in self.names if self._cosine[np.ix_(rows, self._rows(n))].max() > ALIKE]

    def judge(self, x: np.ndarray) -> list[dict[str, Any]]:
        r"""Verdicts on features :math:`(N, P)`.

        Returns:
            `{"p", "told", "candidates"}`: told is `consistent`, a fault, or `cannot tell`; the
            candidates are the faults that explain the data, best first.
        """
        t2, p, each = self.statistics(x), self.p_values(x), self._fit.statistics(x)
        out = []
        for row, chance, sizes in zip(t2, p, each, strict=True):
            if chance > self.level:
                out.append({"p": float(chance), "told": CONSISTENT, "candidates": []})
                continue
            alike = self._near([int(np.argmax(sizes))])
            order = np.argsort(-row)
            near = [
                self.names[k] for k in order if row.max() - row[k] < NEAR or self.names[k] in alike
            ]
            told = near[0] if len(near) == 1 else CANNOT_TELL
            out.append({"p": float(chance), "told": told, "candidates": near})
        return out
