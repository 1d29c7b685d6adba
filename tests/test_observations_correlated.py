r"""Correlated errors: R by products against its dense self, and the baselines that take it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from test_baselines_oi import C, H, L, N, W, dense_localised, problem, store  # noqa: F401

from hpcinv.assimilation import baselines_config as config
from hpcinv.assimilation.baselines import build
from hpcinv.assimilation.oi_taper import gaspari_cohn, positions
from hpcinv.errors import BadInput
from hpcinv.observations import errors
from hpcinv.observations.config import Errors
from hpcinv.observations.errors import ErrorCovariance
from hpcinv.observations.krylov import conjugate_gradients, lanczos_root

CORRELATED = Errors(length_km={"u": 6000.0, "v": 6000.0}, between={"u": {"v": 0.5}}, share=0.8)


def seen(store, members=(), seed=0):  # noqa: F811
    r"""The problem of the tests of interpolation, its errors correlated, two rows of it twice."""
    p = problem(store, members, seed, points=7)
    t = p.table
    twice = np.sort(np.r_[np.arange(len(t)), 3, 20])
    t = t.select(twice)
    value = t.value + np.where(np.r_[False, np.diff(twice) == 0], 0.4, 0.0)
    return replace(p, table=replace(t, value=value), errors=CORRELATED)


def dense(p, rows):
    r"""R of some rows, entry by entry."""
    R = ErrorCovariance(p.table, CORRELATED)
    t, s2 = p.table, R.variance
    out = np.zeros((len(rows), len(rows)))
    lat, lon = np.deg2rad(t.lat), np.deg2rad(t.lon)
    e = 6371.0 * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    for a, i in enumerate(rows):
        for b, j in enumerate(rows):
            if t.frame[i] == t.frame[j]:
                rho = 1.0 if t.channel[i] == t.channel[j] else 0.5
                r = np.linalg.norm(e[i] - e[j])
                out[a, b] = 0.8 * rho * np.sqrt(s2[i] * s2[j]) * np.exp(-r / 6000)
        out[a, a] = s2[i]
    return out


def exact(P, p, frames):
    r"""Mean and covariance from the observations of some frames, standardised."""
    at, y, std, rows = [], [], [], []
    for t in frames:
        c, i, v, s = p.standardised_observations(t)
        rows += list(p.rows[t])
        at += list((t * C + c) * H * W + i)
        y += list(v)
        std += list(np.sqrt(p.R.variance[p.rows[t]]) / s)
    R = dense(p, rows) / np.outer(std, std)
    K = P[:, at] @ np.linalg.inv(P[np.ix_(at, at)] + R)
    return K @ np.array(y), P - K @ P[at]


@pytest.mark.parametrize("large", [False, True])
def test_products_are_those_of_the_matrix(store, large, monkeypatch):  # noqa: F811
    if large:  # as blocks that are never formed
        monkeypatch.setattr(errors, "DENSE", 4)
        monkeypatch.setattr(errors, "PIECE", 5)
    p = seen(store)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(p.table))
    R, D = p.R, dense(p, rows)
    v = rng.standard_normal((3, len(rows)))
    assert np.abs(R.apply(v, rows) - v @ D).max() < 1e-12
    assert np.abs(R.solve(v, rows) - np.linalg.solve(D, v.T).T).max() < 1e-8
    root = np.linalg.cholesky(D)
    if large:
        # by frame, hence of the whole: a root of a block matrix is the blocks' roots
        assert np.abs(R.draw(v, rows) - v @ sqrtm(D).real).max() < 1e-6
    else:
        got = R.draw(np.eye(len(rows)), rows)
        assert np.abs(got.T @ got - D).max() < 1e-12 and np.abs(root @ root.T - D).max() < 1e-12
    scale = rng.uniform(1, 2, len(rows))
    S = np.ones((len(rows), len(rows)))
    R.add(S, rows, scale)
    assert np.abs(S - 1 - D / np.outer(scale, scale)).max() < 1e-12
    some, more = rows[:30], rng.uniform(0, 1, 30)
    want = np.linalg.solve(dense(p, some) + np.diag(more), v[:, :30].T).T
    assert np.abs(R.solve_some(v[:, :30], some, more) - want).max() < 1e-8
    with pytest.raises(BadInput, match="some rows of a frame"):
        R.solve(v[:, :30], some)


def test_what_does_not_converge_is_said(monkeypatch):
    from hpcinv.observations import krylov

    monkeypatch.setattr(krylov, "MOST", 5)
    A = np.diag(np.logspace(0, 6, 50))
    z = np.random.default_rng(0).standard_normal((1, 50))
    with pytest.raises(BadInput, match="50 errors has no root in 5 steps"):
        lanczos_root(lambda v: v @ A, z)
    with pytest.raises(BadInput, match="is not solved in 5 steps"):
        conjugate_gradients(lambda v: v @ A, np.ones(50), z)


def test_interpolation_is_the_kalman_formula_with_correlated_errors(store):  # noqa: F811
    M = 600
    p = seen(store, range(M))
    lags = 5
    P = dense_localised(p, 4000, lags)
    x, cov = exact(P, p, range(L))
    alone = np.abs(exact_white(P, p) - x).max()
    oi = build(config.OI(length_km=4000, lags=lags), p)
    got = store.statistics.standardise(oi.mean(0, L), range(N, N + L)).reshape(-1)
    assert np.abs(got - x).max() < 2e-3 < 0.1 < alone
    members = store.statistics.standardise(oi.draw(1, 2), range(N + 1, N + 2)).reshape(M, -1)
    _has(members, x.reshape(L, -1)[1], cov.reshape(L, C * H * W, L, -1)[1, :, 1])
    # EOFs, frame by frame
    z = p.anomalies.reshape(N, -1).astype(np.float64) / np.sqrt(N)
    _, S, V = np.linalg.svd(z, full_matrices=False)
    B = S[:4, None] * V[:4]
    one = B.T @ B + np.diag((z**2).sum(0) - (B**2).sum(0))
    P = np.kron(np.eye(L), one)
    x, cov = exact(P, p, [1])
    eof = build(config.OI(covariance="eof", eofs=4), p)
    got = store.statistics.standardise(eof.mean(1, 2), [N + 1]).reshape(-1)
    assert np.abs(got - x.reshape(L, -1)[1]).max() < 1e-5
    members = store.statistics.standardise(eof.draw(1, 2), [N + 1]).reshape(M, -1)
    _has(members, x.reshape(L, -1)[1], cov.reshape(L, C * H * W, L, -1)[1, :, 1])


def exact_white(P, p):
    r"""The mean of one who takes the errors as uncorrelated."""
    at, y, s = [], [], []
    for t in range(L):
        c, i, v, e = p.standardised_observations(t)
        at, y, s = [*at, *((t * C + c) * H * W + i)], [*y, *v], [*s, *e]
    return P[:, at] @ np.linalg.solve(P[np.ix_(at, at)] + np.diag(np.square(s)), y)


def _has(members, mean, P):
    M, sd = len(members), np.sqrt(np.diag(P))
    assert np.abs((members.mean(0) - mean) / sd).max() < 5 / np.sqrt(M)
    error = (np.cov(members.T) - P) / np.outer(sd, sd)
    assert np.abs(error).max() < 6 / np.sqrt(M)


def test_filters_take_correlated_errors(store):  # noqa: F811
    M = 6
    p = seen(store, range(M))
    c, i, y, s = p.standardised_observations(2)
    rows = p.rows[2]
    std = np.sqrt(p.R.variance[rows]) / s
    R = dense(p, rows) / np.outer(std, std)

    def filtered(**fields):
        b = build(config.Ensemble(**fields), p)
        return b._analysis(2).reshape(M, C, -1), b._replayed(2).reshape(M, C, -1), b

    # stochastic: the Kalman gain on each member's innovation, perturbed by draws of N(0, R)
    x, E, b = filtered(method="enkf")
    flat, Y = E.reshape(M, -1), E[:, c, i]
    white = b._perturbations(p.table.frame[rows])
    e = p.R.draw(white, rows) / std
    d = y + e - e.mean(0) - Y
    cross = np.cov(np.concatenate([flat, Y], 1).T)
    n = flat.shape[1]
    C_xy, C_yy = cross[:n, n:], cross[n:, n:]
    want = flat + d @ np.linalg.solve(C_yy + R, C_xy.T)
    assert np.abs(x.reshape(M, -1) - want).max() < 1e-5
    # the same, localised
    x, _, _ = filtered(method="enkf", length_km=5000)
    where = positions(store)
    near = gaspari_cohn(np.linalg.norm(where[:, None] - where[i], axis=-1) / 5000)
    K = (C_xy * np.tile(near, (C, 1))) @ np.linalg.inv(C_yy * near[i] + R)
    assert np.abs(x.reshape(M, -1) - flat - d @ K.T).max() < 1e-5
    # local transform: rows far away have an independent error besides
    x, _, _ = filtered(method="letkf", length_km=3000)
    for point in (0, 13, 23):
        rho = gaspari_cohn(np.linalg.norm(where[point] - where[i], axis=1) / 3000)
        k = np.flatnonzero(rho > 0)
        S = np.cov(np.concatenate([E[:, :, point], Y[:, k]], 1).T)
        local = R[np.ix_(k, k)] + np.diag(s[k] ** 2 * (1 / rho[k] - 1))
        K = S[:C, C:] @ np.linalg.inv(S[C:, C:] + local)
        mean = E[:, :, point].mean(0) + K @ (y - Y.mean(0))[k]
        assert np.abs(x[:, :, point].mean(0) - mean).max() < 1e-5
        after = S[:C, :C] - K @ S[C:, :C]
        assert np.abs(np.cov(x[:, :, point].T) - after).max() < 1e-5
