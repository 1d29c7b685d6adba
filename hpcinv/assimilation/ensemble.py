r"""Ensemble Kalman updates: the analysis step alone, for any ensemble and any operator.

Members are rows. With the ensemble :math:`E = \bar x + X`, its observed image
:math:`\mathcal H(E) = \bar y + Y` and :math:`K = X^T Y (Y^T Y + (M - 1) R)^{-1}`:

* `enkf` moves each member by its own innovation, :math:`x_i + K (y + e_i - y_i)` with
  perturbations :math:`e_i \sim N(0, R)` (Burgers, van Leeuwen & Evensen 1998);
* `etkf` moves the mean by :math:`K (y - \bar y)` and turns the anomalies with the symmetric
  square root :math:`T = (I + Y R^{-1} Y^T / (M - 1))^{-1/2}` (Bishop et al. 2001; Hunt, Kostelich
  & Szunyogh 2007). Given the same ensemble it is the ESTKF (Nerger et al. 2012);
* `letkf` does the same at every point of the state, with R inflated by distance: weights
  :math:`\rho` add the independent variance :math:`R_{ii} (1 / \rho_i - 1)`, which is
  :math:`R_{ii} / \rho_i` where errors are uncorrelated, and leaves a row out at zero.

A whole trajectory flattened into the state makes each of them an ensemble smoother (Evensen &
van Leeuwen 2000); all that is asked of R is its diagonal or a product with its inverse, and its
own matrix only where the covariance of the observations is one anyway (a localised `enkf`).
"""

from __future__ import annotations

__all__ = ["enkf", "etkf", "inflate", "letkf", "rotation"]

from collections.abc import Callable

import numpy as np

Solve = Callable[[np.ndarray], np.ndarray]
LocalSolve = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def inflate(E: np.ndarray, factor: float) -> np.ndarray:
    r"""Anomalies times a factor, the mean kept. Arguments: ensemble :math:`(M, n)`."""
    if factor == 1.0:
        return E
    mean = E.mean(0)
    return mean + factor * (E - mean)


def rotation(M: int, rng: np.random.Generator) -> np.ndarray:
    r"""A random orthogonal matrix that keeps the mean: :math:`U 1 = 1`, shape :math:`(M, M)`.

    Uniform on the group (QR of Gaussian numbers, signs fixed) in the plane orthogonal to 1
    (Sakov & Oke 2008, doi:10.1175/2007MWR2021.1).
    """
    Q, R = np.linalg.qr(rng.standard_normal((M - 1, M - 1)))
    Q = Q * np.sign(np.diag(R))
    B = np.linalg.qr(np.concatenate([np.ones((M, 1)), np.eye(M)[:, 1:]], 1))[0][:, 1:]
    return np.full((M, M), 1 / M) + B @ Q @ B.T


def enkf(
    E: np.ndarray,
    HE: np.ndarray,
    y: np.ndarray,
    variance: np.ndarray | Solve,
    perturbations: np.ndarray,
    taper: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    r"""The stochastic ensemble Kalman filter.

    Arguments:
        E: Forecast, with shape :math:`(M, n)`.
        HE: Its observed image, with shape :math:`(M, D)`.
        y: Observations, with shape :math:`(D)`.
        variance: Diagonal of R, with shape :math:`(D)`; or, of correlated errors, a function
            that applies :math:`R^{-1}` to rows :math:`(k, D)` (with a taper one that adds R to
            a matrix :math:`(D, D)`, in place).
        perturbations: Draws of :math:`N(0, R)`, with shape :math:`(M, D)`; their mean is removed.
        taper: Localisation of state–observation and observation–observation covariances, with
            shapes :math:`(n, D)` and :math:`(D, D)`; none by default.

    Returns:
        The analysis, with shape :math:`(M, n)`.
    """
    M = len(E)
    X, Y = E - E.mean(0), HE - HE.mean(0)
    e = perturbations - perturbations.mean(0)
    d = y + e - HE
    correlated = callable(variance)
    if taper is None and (M < len(y) or correlated):
        # The inverse in the space of the members (Woodbury).
        W = variance(Y) if correlated else Y / variance
        A = (M - 1) * np.eye(M) + W @ Y.T
        w = d @ W.T
        return E + np.linalg.solve(A, w.T).T @ X
    S = Y.T @ Y / (M - 1)
    C = X.T @ Y / (M - 1)
    if taper is not None:
        C, S = C * taper[0], S * taper[1]
    if correlated:
        variance(S)
    else:
        S[np.diag_indices_from(S)] += variance
    return E + np.linalg.solve(S, d.T).T @ C.T


def etkf(
    E: np.ndarray,
    HE: np.ndarray,
    y: np.ndarray,
    variance: np.ndarray | Solve,
    turn: np.ndarray | None = None,
) -> np.ndarray:
    r"""The ensemble transform Kalman filter.

    Arguments:
        E, HE, y: As in `enkf`.
        variance: Diagonal of R, or a function that applies :math:`R^{-1}` to rows
            :math:`(k, D)`.
        turn: A rotation of the anomalies (`rotation`), with shape :math:`(M, M)`.

    Returns:
        The analysis, with shape :math:`(M, n)`.
    """
    mean = E.mean(0)
    return mean + transform(HE, y, variance, turn) @ (E - mean)


def transform(
    HE: np.ndarray, y: np.ndarray, variance: np.ndarray | Solve, turn: np.ndarray | None = None
) -> np.ndarray:
    r"""The matrix W of the ETKF: analysis = mean + W X, the mean's own move included, (M, M)."""
    M = len(HE)
    Y = HE - HE.mean(0)
    W = variance(Y) if callable(variance) else Y / variance
    s, V = np.linalg.eigh(W @ Y.T / (M - 1))
    s = 1 + np.maximum(s, 0)
    w = V @ ((V.T @ (W @ (y - HE.mean(0)))) / (s * (M - 1)))
    T = (V / np.sqrt(s)) @ V.T
    return w + (T if turn is None else turn @ T)


def letkf(
    E: np.ndarray,
    HE: np.ndarray,
    y: np.ndarray,
    variance: np.ndarray,
    taper: Callable[[int, int], np.ndarray],
    block: int = 2048,
    solve: LocalSolve | None = None,
) -> np.ndarray:
    r"""The local ensemble transform Kalman filter: one ETKF at each point.

    Arguments:
        E: Forecast, with shape :math:`(M, C, P)`, P points of C channels.
        HE, y, variance: As in `enkf`.
        taper: Weights of the observations at points [start, stop), with shape
            :math:`(stop - start, D)`, see the module.
        block: Points treated at once.
        solve: Of correlated errors: :math:`(R + m)^{-1}` of rows v :math:`(k, d)`, d indices of
            observations and their additional variance m as arguments; asked at each point.

    Returns:
        The analysis, with shape :math:`(M, C, P)`.
    """
    M, _, P = E.shape
    Y = HE - HE.mean(0)
    d = y - HE.mean(0)
    both = np.concatenate([Y, d[None]])

    def told(rho: np.ndarray) -> np.ndarray:
        r"""Y R⁻¹ (Y, d)ᵀ at each point, (points, M, M + 1)."""
        if solve is None:
            pairs = ((Y / variance)[:, None] * both[None]).reshape(M * (M + 1), -1)
            return (rho @ pairs.T).reshape(-1, M, M + 1)
        out = np.zeros((len(rho), M, M + 1))
        for p, weight in enumerate(rho):
            at = np.flatnonzero(weight > 0)
            if len(at):
                more = variance[at] * (1 / weight[at] - 1)
                out[p] = solve(Y[:, at], at, more) @ both[:, at].T
        return out

    mean = E.mean(0)
    X = E - mean
    out = np.empty_like(E)
    for a in range(0, P, block):
        b = min(a + block, P)
        seen = told(taper(a, b))
        s, V = np.linalg.eigh(seen[..., :M] / (M - 1))
        s = 1 + np.maximum(s, 0)
        Vt = V.transpose(0, 2, 1)
        w = np.einsum("pij,pj->pi", Vt, seen[..., M]) / (s * (M - 1))
        w = np.einsum("pij,pj->pi", V, w)
        W = (V / np.sqrt(s)[:, None]) @ Vt + w[:, None]  # (points, member, anomaly)
        out[..., a:b] = mean[:, a:b] + np.einsum("pij,jcp->icp", W, X[..., a:b])
    return out
