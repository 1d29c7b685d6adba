r"""Optimal interpolation with empirical orthogonal functions.

The standardised state is :math:`x = B^T a + r` with :math:`a \sim N(0, I_k)`, the rows of B the
leading EOFs times their standard deviations, and a white residual :math:`r \sim N(0, \rho)`
with the variance the EOFs leave at each point. With :math:`y = H x + e`,
:math:`e \sim N(0, R)`,

.. math:: P = (I + H_B (R + H \rho)^{-1} H_B^T)^{-1}, \quad
          \bar a = P H_B (R + H\rho)^{-1} y, \quad
          \bar r = \rho H^T (R + H \rho)^{-1} (y - H_B^T \bar a),

the exact Kalman mean (Daley, Atmospheric Data Analysis, 1991, chapter 4, in the space of the
EOFs). Of correlated errors the same mean comes from the space of the observations, where
:math:`H (B^T B + \rho) H^T + R` is solved by conjugate gradients. Members are drawn by
perturbing: the same formula applied to y + e − H x for a prior draw (x, e), added to x, is an
exact posterior sample. Frames are analysed one by one.
"""

from __future__ import annotations

__all__ = ["EOFInterpolation"]

import numpy as np

from ..errors import BadInput
from ..observations.krylov import conjugate_gradients
from .baselines import Problem


class EOFInterpolation:
    r"""Optimal interpolation with the leading EOFs of the standardised training anomalies.

    Arguments:
        problem: See `Problem`.
        eofs: EOFs kept, :math:`k`.

    Raises:
        BadInput: If there are fewer training frames than EOFs.
    """

    def __init__(self, problem: Problem, eofs: int) -> None:
        self.problem = problem
        z = problem.anomalies
        N = len(z)
        if eofs >= N:
            raise BadInput(f"{eofs} EOFs of {N} training frames", "eofs", f"Give at most {N - 1}.")
        z = z.reshape(N, -1).astype(np.float64) / np.sqrt(N)
        # EOFs through the small Gram matrix: exact, and its size is that of the training period.
        vectors = np.linalg.eigh(z @ z.T)[1]
        B = vectors[:, ::-1][:, :eofs].T @ z
        self.B = B
        self.rho = np.maximum((z**2).sum(0) - (B**2).sum(0), 0.0)
        self.points = z.shape[1] // problem.shape[0]

    def _update(self, frame: int, d: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
        r"""Posterior states from departures d (m, D) of prior draws (m, n), or of zero."""
        at, _, R = self._observations(frame)
        H, q = self.B[:, at], R + self.rho[at]
        S = np.eye(len(H)) + (H / q) @ H.T
        a = np.linalg.solve(S, (H / q) @ d.T).T
        x = a @ self.B
        r = self.rho[at] * (d - a @ H) / q
        x[:, at] += r
        return x if prior is None else prior + x

    def _correlated(
        self, frame: int, d: np.ndarray, at: np.ndarray, std: np.ndarray
    ) -> np.ndarray:
        r"""P_x Hᵀ (H P_x Hᵀ + R)⁻¹ d, (m, n), through products with R."""
        p, H = self.problem, self.B[:, at]
        rows = p.rows[frame]
        unique, inverse = np.unique(at, return_inverse=True)
        residual = lambda v: _summed(v, inverse, len(unique)) * self.rho[unique]  # noqa: E731

        def product(v: np.ndarray) -> np.ndarray:
            seen = v @ H.T @ H + residual(v)[:, inverse]
            return seen + p.R.apply(v / std, rows) / std

        diagonal = (H**2).sum(0) + self.rho[at] + p.R.variance[rows] / std**2
        v = conjugate_gradients(product, diagonal, d)
        x = v @ H.T @ self.B
        x[:, unique] += residual(v)
        return x

    def _observations(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        c, i, y, s = self.problem.standardised_observations(frame)
        at = c * self.points + i
        unique, inverse = np.unique(at, return_inverse=True)
        if len(unique) == len(at):
            return at, y, s**2
        # Repeated observations of one number are one observation with their pooled error.
        w = np.bincount(inverse, 1 / s**2)
        return unique, np.bincount(inverse, y / s**2) / w, 1 / w

    def _each(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Places, values and deviations of the state of one frame's rows, none pooled."""
        c, i, y, s = self.problem.standardised_observations(frame)
        std = np.sqrt(self.problem.R.variance[self.problem.rows[frame]]) / s
        return c * self.points + i, y, std

    def mean(self, start: int, stop: int) -> np.ndarray:
        z = []
        for k in range(start, stop):
            if self.problem.R.diagonal:
                _, y, _ = self._observations(k)
                z.append(self._update(k, y[None], None)[0])
            else:
                at, y, std = self._each(k)
                z.append(self._correlated(k, y[None], at, std)[0])
        return self._physical(np.stack(z), start, stop)

    def draw(self, start: int, stop: int) -> np.ndarray:
        from ..diffusion.noise import generator

        p = self.problem
        z = np.empty((len(p.members), stop - start, self.B.shape[1]), np.float32)
        for k in range(start, stop):
            at, y, R = self._observations(k) if p.R.diagonal else self._each(k)
            x, white = [], []
            for m in p.members:
                rng = generator(p.seed, "oi", m, p.analysed[0] + k)
                r = rng.standard_normal(self.B.shape[1])
                x.append(rng.standard_normal(len(self.B)) @ self.B + np.sqrt(self.rho) * r)
                white.append(rng.standard_normal(len(y)))
            x, white = np.stack(x), np.stack(white)
            if p.R.diagonal:
                z[:, k - start] = self._update(k, y + np.sqrt(R) * white - x[:, at], x)
            else:
                e = p.R.draw(white, p.rows[k]) / R
                z[:, k - start] = x + self._correlated(k, y + e - x[:, at], at, R)
        return self._physical(z, start, stop)

    def _physical(self, z: np.ndarray, start: int, stop: int) -> np.ndarray:
        shape = (*z.shape[:-1], *self.problem.shape)
        return self.problem.physical(z.reshape(shape).astype(np.float32), start, stop)


def _summed(v: np.ndarray, inverse: np.ndarray, number: int) -> np.ndarray:
    r"""Columns of one place added up, (m, number)."""
    out = np.zeros((len(v), number))
    np.add.at(out, (slice(None), inverse), v)
    return out
