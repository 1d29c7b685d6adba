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

from typing import Any

import numpy as np

from ..errors import BadInput
from ..observations.krylov import conjugate_gradients
from ..observations.operators import Operator
from .baselines import Problem


class EOFInterpolation:
    r"""Optimal interpolation with the leading EOFs of the standardised training anomalies.

    Arguments:
        problem: See `Problem`.
        eofs: EOFs kept, :math:`k`.

    Raises:
        BadInput: If there are fewer training frames than EOFs, or a row is no linear function of
            one frame.
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
        self._operator = None
        if not problem.table.plain:
            self._operator = linear_operator(problem)
        self._pooled = self._operator is None and problem.R.diagonal

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

    def _solved(
        self, frame: int, d: np.ndarray, at: np.ndarray, A: Any, std: np.ndarray
    ) -> np.ndarray:
        r"""P_x Hᵀ (H P_x Hᵀ + R)⁻¹ d, (m, n), through products with R; H is A of numbers `at`."""
        p, rows = self.problem, self.problem.rows[frame]
        H = (A @ self.B[:, at].T).T
        residual = lambda v: (A.T @ v.T).T * self.rho[at]  # noqa: E731

        def product(v: np.ndarray) -> np.ndarray:
            seen = v @ H.T @ H + (A @ residual(v).T).T
            return seen + p.R.apply(v / std, rows) / std

        diagonal = (H**2).sum(0) + A.power(2) @ self.rho[at] + p.R.variance[rows] / std**2
        v = conjugate_gradients(product, diagonal, d)
        x = v @ H.T @ self.B
        x[:, at] += residual(v)
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

    def _each(self, frame: int) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray]:
        r"""Of one frame's rows, none pooled: the numbers of the state that they see, H of these,
        values without the climatology's, and the deviations that both are divided by."""
        from scipy.sparse import csr_matrix

        p = self.problem
        if self._operator is None:
            c, i, y, s = p.standardised_observations(frame)
            at, number = np.unique(c * self.points + i, return_inverse=True)
            A = csr_matrix((np.ones(len(y)), (np.arange(len(y)), number)), (len(y), len(at)))
            return at, A, y, np.sqrt(p.R.variance[p.rows[frame]]) / s
        piece = self._operator.piece(p.rows[frame])
        where = np.full(len(piece.frame), p.analysed[0] + frame)
        mean, std = p.statistics.at(where, piece.channel, piece.point)
        A = piece.matrix.multiply(std).tocsr()
        y = p.table.value[piece.rows] - piece.matrix @ mean
        return piece.channel * self.points + piece.point, A, y, np.ones(len(y))

    def mean(self, start: int, stop: int) -> np.ndarray:
        z = []
        for k in range(start, stop):
            if self._pooled:
                _, y, _ = self._observations(k)
                z.append(self._update(k, y[None], None)[0])
            else:
                at, A, y, std = self._each(k)
                z.append(self._solved(k, y[None], at, A, std)[0])
        return self._physical(np.stack(z), start, stop)

    def draw(self, start: int, stop: int) -> np.ndarray:
        p = self.problem
        z = np.empty((len(p.members), stop - start, self.B.shape[1]), np.float32)
        for k in range(start, stop):
            if self._pooled:
                at, y, R = self._observations(k)
                x, white = self._prior(k, len(y))
                z[:, k - start] = self._update(k, y + np.sqrt(R) * white - x[:, at], x)
            else:
                at, A, y, std = self._each(k)
                x, white = self._prior(k, len(y))
                d = y + p.R.draw(white, p.rows[k]) / std - (A @ x[:, at].T).T
                z[:, k - start] = x + self._solved(k, d, at, A, std)
        return self._physical(z, start, stop)

    def _prior(self, k: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        r"""Draws of the prior (m, n), and white noise (m, D)."""
        from ..diffusion.noise import generator

        p, x, white = self.problem, [], []
        for m in p.members:
            rng = generator(p.seed, "oi", m, p.analysed[0] + k)
            r = rng.standard_normal(self.B.shape[1])
            x.append(rng.standard_normal(len(self.B)) @ self.B + np.sqrt(self.rho) * r)
            white.append(rng.standard_normal(rows))
        return np.stack(x), np.stack(white)

    def _physical(self, z: np.ndarray, start: int, stop: int) -> np.ndarray:
        shape = (*z.shape[:-1], *self.problem.shape)
        return self.problem.physical(z.reshape(shape).astype(np.float32), start, stop)


def linear_operator(problem: Problem) -> Operator:
    r"""The operator of rows that are linear functions of one frame.

    Raises:
        BadInput: If others are among them.
    """
    forward = problem.table.forward
    curved = [d.name for d in forward.derived if d.operator not in ("column", "level")]
    names = problem.table.variables
    seen = [n for n in curved if (problem.table.channel == names.index(n)).any()]
    if forward.time != "nearest" or seen:
        what = f"'{seen[0]}' is no linear function of the state" if seen else "rows between frames"
        raise BadInput(
            f"optimal interpolation sees linear functions of one frame; {what}", "observations",
            "Use method: enks or etkf, or observe with time: nearest and without it.",
        )  # fmt: skip
    return Operator(problem.table, problem.store, problem.analysed[0], problem.length)
