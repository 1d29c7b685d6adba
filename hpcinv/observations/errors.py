r"""Error models: the covariance R of a table's rows beyond their own σ.

.. math:: R_{ij} = \rho_{uv} s_i s_j e^{-r_{ij} / L} + \delta_{ij} (\sigma_i^2 - s_i^2)
    + \delta_{ij} q_i^2, \quad s_i^2 = \lambda \sigma_i^2

for rows of one frame and of variables u, v: a share λ of the error's variance is correlated, in
space over L (without L: at one place), between variables by ρ (one of a variable with itself); q
is an error of representativeness. R is block diagonal, by frame and by variables that know of each
other; a small block is kept, of a larger one products are formed piece by piece, the inverse is
applied by conjugate gradients with the diagonal as preconditioner, and draws are made by Lanczos'
square root (Chow & Saad 2014, doi:10.1137/130920587).
"""

from __future__ import annotations

__all__ = ["ErrorCovariance", "station_bias"]

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from ..models.sphere import EARTH_RADIUS_KM, unit_vectors
from .krylov import conjugate_gradients, lanczos_root
from .table import ObservationTable

DENSE = 1500  # rows of a block that is kept
PIECE = 512  # rows of a larger one formed at once
HERE = 0.05  # km that count as the same place


class ErrorCovariance:
    r"""R of the rows of a table.

    Arguments:
        table: The rows.
        config: See `hpcinv.observations.config.Errors`.

    Raises:
        BadInput: If it names an unknown variable, or rows without a place are correlated.
    """

    def __init__(self, table: ObservationTable, config: Any) -> None:
        names = table.variables
        for field in ("factor", "representativeness", "length_km"):
            for name in getattr(config, field):
                if name not in names:
                    raise BadInput(
                        f"unknown variable '{name}'", f"errors: {field}", nearest(name, names)
                    )
        pick = lambda of, default: np.array([of.get(n, default) for n in names])  # noqa: E731
        factor = pick(config.factor, 1.0)[table.channel]
        q = pick(config.representativeness, 0.0)[table.channel]
        self.variance = (factor * table.error) ** 2 + q**2
        length = pick(config.length_km, 0.0)
        self._rho, family = _between(config.between, names, length)
        mixed = np.bincount(family, minlength=len(names))[family] > 1
        correlated = ((length > 0) | mixed)[table.channel]
        self.diagonal = not correlated.any()
        self._blocks: list[tuple[np.ndarray, float]] = []
        self._kept: dict[int, tuple[np.ndarray, Any]] = {}
        if self.diagonal:
            return
        if np.isnan(table.lat[correlated]).any():
            raise BadInput("rows without a place cannot be correlated", "errors")
        lat, lon = np.nan_to_num(table.lat), np.nan_to_num(table.lon)
        self._where = EARTH_RADIUS_KM * unit_vectors(lat, lon)
        self._s = np.sqrt(config.share) * factor * table.error
        self._channel = table.channel
        key = table.frame * len(names) + family[table.channel]
        order = np.argsort(key, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            c = table.channel[rows[0]]
            self._blocks.append((rows, float(length[c]) if correlated[rows[0]] else -1.0))
        self._block_of = np.empty(len(table), np.int64)
        for b, (rows, _) in enumerate(self._blocks):
            self._block_of[rows] = b

    def matrix(self, rows: np.ndarray, columns: np.ndarray, length: float) -> np.ndarray:
        r"""Part of a block, dense."""
        a, b = self._where[rows], self._where[columns]
        r2 = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        r = np.sqrt(np.maximum(r2, 0))
        R = np.exp(-r / length) if length > 0 else (r < HERE).astype(np.float64)
        R *= self._rho[self._channel[rows][:, None], self._channel[columns]]
        R = R * self._s[rows][:, None] * self._s[columns]
        same = rows[:, None] == columns
        return np.where(same, self.variance[rows][:, None], R)

    def _each(self, rows: np.ndarray, v: np.ndarray, what: str) -> np.ndarray:
        r"""`apply`, `solve` or `draw`, block by block."""
        if self.diagonal:
            return _alone(self.variance[rows], v, what)
        out = np.empty_like(v, dtype=np.float64)
        block = self._block_of[rows]
        for b in np.unique(block):
            at = np.flatnonzero(block == b)
            whole, length = self._blocks[b]
            if len(at) != len(whole):
                raise BadInput("R of some rows of a frame only", "error covariance")
            out[..., at] = self._one(int(b), rows[at], length, v[..., at], what)
        return out

    def _one(self, b: int, rows, length, v, what: str) -> np.ndarray:
        from scipy.linalg import cho_solve

        if length < 0:
            return _alone(self.variance[rows], v, what)
        flat = v.reshape(-1, len(rows))
        if len(rows) <= DENSE:
            R, L = self._factor(b, rows, length)
            if what == "apply":
                return v @ R
            if what == "draw":
                return v @ np.tril(L).T
            return cho_solve((L, True), flat.T).T.reshape(v.shape)
        product = lambda u: self._product(rows, length, u)  # noqa: E731
        if what == "apply":
            return product(v)
        if what == "solve":
            return conjugate_gradients(product, self.variance[rows], flat).reshape(v.shape)
        s = np.sqrt(self.variance[rows])
        return s * lanczos_root(lambda u: product(u / s) / s, flat).reshape(v.shape)

    def _factor(self, b: int, rows, length) -> tuple[np.ndarray, np.ndarray]:
        r"""A small block and its Cholesky factor, kept."""
        from scipy.linalg import cholesky

        if b not in self._kept or not np.array_equal(self._kept[b][2], rows):
            R = self.matrix(rows, rows, length)
            self._kept[b] = (R, cholesky(R, lower=True), rows)
        return self._kept[b][:2]

    def _product(self, rows, length, v) -> np.ndarray:
        out = np.empty_like(v, dtype=np.float64)
        for a in range(0, len(rows), PIECE):
            part = rows[a : a + PIECE]
            out[..., a : a + PIECE] = v @ self.matrix(part, rows, length).T
        return out

    def apply(self, v: np.ndarray, rows: np.ndarray) -> np.ndarray:
        r"""R v of all rows of some frames, :math:`(..., D)`, D of `rows`."""
        return self._each(rows, v, "apply")

    def solve(self, v: np.ndarray, rows: np.ndarray) -> np.ndarray:
        r""":math:`R^{-1} v`, as `apply`."""
        return self._each(rows, v, "solve")

    def draw(self, white: np.ndarray, rows: np.ndarray) -> np.ndarray:
        r"""Draws of :math:`N(0, R)` from standard normal numbers, as `apply`."""
        return self._each(rows, white, "draw")

    def add(self, S: np.ndarray, rows: np.ndarray, scale: np.ndarray | None = None) -> None:
        r"""Adds R of some rows to a matrix :math:`(D, D)`, in place, without another one.

        Arguments:
            S: The matrix.
            rows: Any rows.
            scale: What each row is divided by, with shape :math:`(D)`.
        """
        scale = np.ones(len(rows)) if scale is None else scale
        if self.diagonal:
            S[np.diag_indices_from(S)] += self.variance[rows] / scale**2
            return
        block = self._block_of[rows]
        for b in np.unique(block):
            at = np.flatnonzero(block == b)
            length = self._blocks[b][1]
            if length < 0:
                S[at, at] += self.variance[rows[at]] / scale[at] ** 2
                continue
            for a in range(0, len(at), PIECE):
                part = at[a : a + PIECE]
                R = self.matrix(rows[part], rows[at], length)
                S[part[:, None], at] += R / scale[part][:, None] / scale[at]

    def solve_some(self, v: np.ndarray, rows: np.ndarray, more: np.ndarray) -> np.ndarray:
        r""":math:`(R + \text{diag}(m))^{-1} v` of any rows, with shape :math:`(k, D)`.

        What a filter needs that sees the rows near a place: the errors of the others are
        integrated out.

        Arguments:
            v: With shape :math:`(k, D)`.
            rows: Any D rows.
            more: Independent variance m that they have besides, with shape :math:`(D)`.
        """
        from scipy.linalg import cho_factor, cho_solve

        if self.diagonal:
            return v / (self.variance[rows] + more)
        out = np.empty_like(v, dtype=np.float64)
        block = self._block_of[rows]
        for b in np.unique(block):
            at = np.flatnonzero(block == b)
            length, some, m = self._blocks[b][1], rows[at], more[at]
            if length < 0:
                out[:, at] = v[:, at] / (self.variance[some] + m)
            elif len(at) <= DENSE:
                R = self.matrix(some, some, length)
                R[np.diag_indices_from(R)] += m
                out[:, at] = cho_solve(cho_factor(R, lower=True, overwrite_a=True), v[:, at].T).T
            else:
                out[:, at] = conjugate_gradients(
                    lambda u, some=some, m=m, length=length: (
                        self._product(some, length, u) + m * u
                    ),
                    self.variance[some] + m, v[:, at],
                )  # fmt: skip
        return out


def _alone(variance: np.ndarray, v: np.ndarray, what: str) -> np.ndarray:
    r"""`apply`, `solve` or `draw` of a diagonal."""
    if what == "draw":
        return np.sqrt(variance) * v
    return v / variance if what == "solve" else v * variance


def _between(config: Any, names: Sequence[str], length: np.ndarray):
    r"""Correlations of the variables, (V, V), and the number of each one's family."""
    V = len(names)
    rho = np.eye(V)
    for a, of in config.items():
        for b, r in of.items():
            for name in (a, b):
                if name not in names:
                    raise BadInput(
                        f"unknown variable '{name}'", "errors: between", nearest(name, names)
                    )
            i, j = names.index(a), names.index(b)
            rho[i, j] = rho[j, i] = r
            if length[i] != length[j]:
                raise BadInput(
                    f"errors of '{a}' and '{b}' are correlated over different lengths",
                    "errors: length_km",
                    "Give both the same.",
                )
    if np.linalg.eigvalsh(rho)[0] <= 0:
        raise BadInput(
            "no errors have such correlations (the matrix is not positive)",
            "errors: between",
            "Make them smaller.",
        )
    family = np.arange(V)
    for _ in range(V):  # the lowest number of whatever is connected
        family = np.array([family[rho[k] != 0].min() for k in range(V)])
    return rho, family


def station_bias(
    table: ObservationTable,
    departure: np.ndarray,
    prior: float = 1.0,
    of: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[tuple[str, str], tuple[float, float]]]:
    r"""Bias of each station and variable from departures, shrunk to zero.

    Departures of one frame share the background's error, so that each frame's mean counts once:
    the mean of n of them is an estimate with their variance v over n; with the prior
    :math:`b \sim N(0, (p \sigma)^2)` the posterior mean is
    :math:`\bar d \, / (1 + v / (n p^2 \sigma^2))`.

    Arguments:
        table: The rows.
        departure: Value minus background, with shape :math:`(D)`.
        prior: p, the bias a station is expected to have over its σ.
        of: Names of what may be biased, with shape :math:`(D)`: the stations by default. Rows
            without a name have no bias.

    Returns:
        The bias of each row, and `{(station, variable): (bias, its deviation)}`.
    """
    of = table.station if of is None else of
    bias, told = np.zeros(len(table)), {}
    good = (of != "") & (table.flag == 0) & np.isfinite(departure)
    for c, variable in enumerate(table.variables):
        mine = good & (table.channel == c)
        for name in np.unique(of[mine]):
            rows = np.flatnonzero(mine & (of == name))
            sigma = table.error[rows].mean()
            _, frame, count = np.unique(table.frame[rows], return_inverse=True, return_counts=True)
            d = np.bincount(frame.reshape(-1), departure[rows]) / count
            least = sigma**2 * (1 / count).mean()  # of a frame's mean, by the told errors alone
            v = max(d.var(ddof=1) if len(d) > 1 else least, least) / len(d)
            b = (prior * sigma) ** 2
            found = float(d.mean() * b / (b + v))
            bias[(table.channel == c) & (of == name)] = found
            told[str(name), variable] = found, float(np.sqrt(b * v / (b + v)))
    return bias, told
