r"""Optimal interpolation with a localised sample covariance, in space and in time.

With :math:`Z_n` the standardised training anomalies, the covariance between point p of frame t
and point p′ of frame t′ is

.. math:: C = \rho(p, p') \; \tau(t - t') \; \frac{1}{N} \sum_n Z_{n+t}(p) Z_{n+t'}(p'),

the sample covariance at the observed lag, tapered in space by :math:`\rho` and in time by
:math:`\tau` (Houtekamer & Mitchell 2001). It is a Schur product of three covariances, hence
one itself: lagged products that would cross the end of a segment of the training period are
zero, as in the biased estimator of an autocovariance.

Its generative twin draws from it exactly,

.. math:: x_t(p) = \frac{1}{\sqrt{N}} \sum_n w_{n-t}(p, t) Z_n(p),

where the weights w are Gaussian fields with correlation :math:`\rho` in space and :math:`\tau`
in time. So members are the posterior's own: prior draw plus gain times (y + e − H x). Frame t
is analysed with the observations of the frames at most `lags` away. A row that sees several
numbers (interpolated, a block, a level, a column) has the covariances of these, each tapered by
its own place: H C Hᵀ.
"""

from __future__ import annotations

__all__ = ["LocalisedInterpolation"]

from collections import OrderedDict
from typing import Any

import numpy as np
from scipy.sparse import block_diag

from .baselines import Problem
from .oi import linear_operator
from .oi_taper import bartlett, factor, positions

CHUNK = 4096  # points whose covariance with the observations is formed at once


class LocalisedInterpolation:
    r"""See the module.

    Memory: the training anomalies (N × C × grid), the taper's factor (grid × rank), the members
    of 2 `lags` + 1 frames, and a square matrix of the observations of as many frames, to which
    the blocks of R are added.

    Arguments:
        problem: See `Problem`.
        length_km: Length of the taper in space.
        taper: Its shape, `gaussian` or `gaspari_cohn`.
        lags: Frames before and after whose observations count.
    """

    def __init__(
        self, problem: Problem, length_km: float, taper: str = "gaussian", lags: int = 1
    ) -> None:
        self.problem, self.lags = problem, lags
        self.Z = self._padded()
        self.F = factor(positions(problem.store), length_km, taper)
        self._operator = None if problem.table.plain else linear_operator(problem)
        self._priors: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._solved: tuple[int, np.ndarray, list[np.ndarray]] | None = None

    def _padded(self) -> np.ndarray:
        r"""Anomalies over √N, (N', C, points): `lags` frames of zeros follow each segment.

        Rolled along the first axis they then never meet another segment within the taper.
        """
        p = self.problem
        z = p.anomalies.reshape(-1, p.shape[0], int(np.prod(p.store.grid)))
        a, b = p.training
        cuts = [e - a for _, e in p.store.segments if a < e < b] + [b - a]
        rows, at = [], 0
        for cut in cuts:
            rows += [z[at:cut], np.zeros((self.lags, *z.shape[1:]), z.dtype)]
            at = cut
        return np.concatenate(rows) / np.float32(np.sqrt(len(z)))

    def _observed(self, frame: int) -> dict[str, Any]:
        r"""Observations that count for a frame: of the numbers seen their frame t, channel c,
        point i and anomalies M, rolled to a common origin; H of these (None: they are the rows);
        of the rows their frame `at`, value y, and the deviation that both are divided by."""
        p = self.problem
        lo, hi = max(0, frame - self.lags), min(p.length, frame + self.lags + 1)
        parts: dict[str, list] = {k: [] for k in ("t", "c", "i", "M", "at", "y", "std", "rows")}
        H = []
        for t in range(lo, hi):
            if self._operator is None:
                c, i, y, s = p.standardised_observations(t)
                std = np.sqrt(p.R.variance[p.rows[t]]) / s
            else:
                piece = self._operator.piece(p.rows[t])
                c, i = piece.channel, piece.point
                mean, s = p.statistics.at(np.full(len(c), p.analysed[0] + t), c, i)
                H.append(piece.matrix.multiply(s).tocsr())
                y = p.table.value[piece.rows] - piece.matrix @ mean
                std = np.ones(len(y))
            M = np.roll(self.Z[:, c, i], -t, axis=0).T
            columns = np.full(len(c), t), c, i, M, np.full(len(y), t), y, std, p.rows[t]
            for key, column in zip(parts, columns, strict=True):
                parts[key].append(column)
        out: dict[str, Any] = {k: np.concatenate(v) for k, v in parts.items()}
        out["H"] = block_diag(H, format="csr") if H else None
        return out

    def _gain(self, frame: int, departures: np.ndarray, o: dict[str, np.ndarray]) -> np.ndarray:
        r"""C_xo (C_oo + R)⁻¹ d for departures d (m, D): (m, C, points), standardised."""
        from scipy.linalg import cho_factor, cho_solve

        if not len(o["y"]):  # nothing is seen this far away: the prior
            return np.zeros((len(departures), *self.Z.shape[1:]), np.float32)
        rho = self.F[o["i"]] @ self.F[o["i"]].T
        tau = bartlett(o["t"][:, None] - o["t"][None], self.lags)
        S = (o["M"] @ o["M"].T * rho).astype(np.float64) * tau
        if o["H"] is not None:
            S = np.asarray(o["H"] @ (o["H"] @ S).T)
        self.problem.R.add(S, o["rows"], o["std"])
        alpha = cho_solve(cho_factor(S, lower=True, overwrite_a=True), departures.T)
        if o["H"] is not None:
            alpha = o["H"].T @ alpha
        # Numbers of one point share the taper: its columns are formed once.
        points, inverse = np.unique(o["i"], return_inverse=True)
        alpha = (alpha * bartlett(o["t"] - frame, self.lags)[:, None]).astype(np.float32)
        X = np.roll(self.Z, -frame, axis=0)
        out = np.empty((len(departures), *X.shape[1:]), np.float32)
        for a in range(0, X.shape[2], CHUNK):
            taper = (self.F[a : a + CHUNK] @ self.F[points].T)[:, inverse]
            for c in range(X.shape[1]):
                C = X[:, c, a : a + CHUNK].T @ o["M"].T
                out[:, c, a : a + CHUNK] = ((C * taper) @ alpha).T
        return out

    def _analyse(self, frame: int, members: bool) -> tuple[np.ndarray, np.ndarray | None]:
        o = self._observed(frame)
        d = o["y"][None]
        if members:
            d = np.concatenate([d, o["y"] - self._departures(frame, o)])
        z = self._gain(frame, d, o)
        x = None
        if members:
            x = np.stack([self._prior(m, frame) for m in self.problem.members]) + z[1:]
        return z[0], x

    def _departures(self, frame: int, o: dict[str, np.ndarray]) -> np.ndarray:
        r"""H x − e for every member's prior draw x and observation noise e: (m, D)."""
        from ..diffusion.noise import generator

        p = self.problem
        rows = []
        for m in p.members:
            row = [np.zeros(0)]
            for t in np.unique(o["at"]):
                at, seen = o["at"] == t, o["t"] == t
                rng = generator(p.seed, "oi perturbation", m, p.analysed[0] + int(t))
                e = p.R.draw(rng.standard_normal(int(at.sum())), o["rows"][at]) / o["std"][at]
                x = self._prior(m, int(t))[o["c"][seen], o["i"][seen]]
                row.append((x if o["H"] is None else o["H"][at][:, seen] @ x) - e)
            rows.append(np.concatenate(row))
        return np.stack(rows)

    def _prior(self, member: int, frame: int) -> np.ndarray:
        r"""A member's draw from the prior at one frame: (C, points), standardised."""
        from ..diffusion.noise import generator

        key = (member, frame)
        if key not in self._priors:
            p, shape = self.problem, (len(self.Z), self.F.shape[1])
            G = np.zeros(shape, np.float32)
            for h in range(self.lags + 1):
                rng = generator(p.seed, "oi prior", member, p.analysed[0] + frame + h)
                G += rng.standard_normal(shape, dtype=np.float32)
            G = np.roll(G, frame, axis=0) / np.float32(np.sqrt(self.lags + 1))
            x = np.empty(self.Z.shape[1:], np.float32)
            for a in range(0, x.shape[1], CHUNK):
                w = self.F[a : a + CHUNK] @ G.T
                x[:, a : a + CHUNK] = np.einsum("pn,ncp->cp", w, self.Z[:, :, a : a + CHUNK])
            self._priors[key] = x
            while len(self._priors) > (2 * self.lags + 1) * max(len(p.members), 1):
                self._priors.popitem(last=False)
        return self._priors[key]

    def mean(self, start: int, stop: int) -> np.ndarray:
        z = np.stack([self._analyse(k, False)[0] for k in range(start, stop)])
        return self._physical(z, start, stop)

    def draw(self, start: int, stop: int) -> np.ndarray:
        p = self.problem
        z = np.empty((len(p.members), stop - start, *self.Z.shape[1:]), np.float32)
        for k in range(start, stop):
            z[:, k - start] = self._analyse(k, True)[1]
        return self._physical(z, start, stop)

    def _physical(self, z: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.problem.physical(z.reshape(*z.shape[:-2], *self.problem.shape), start, stop)
