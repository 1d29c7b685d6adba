r"""Baselines: exact means and covariances against dense Kalman formulas on small cases."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.assimilation import baselines_config as config
from hpcinv.assimilation.baselines import Problem, build
from hpcinv.assimilation.oi_taper import bartlett, factor, gaspari_cohn, gaussian, positions
from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics
from hpcinv.observations.config import Derived, Errors, Forward
from hpcinv.observations.networks import random_points
from hpcinv.observations.operators import Operator
from hpcinv.observations.stencils import nearest_points
from hpcinv.observations.table import ObservationTable

N, L, C, H, W = 48, 6, 2, 4, 6  # four years of monthly frames, then six to analyse


class Store(SimpleNamespace):
    def read(self, start, stop):
        return self.x[start:stop]


@pytest.fixture(scope="module")
def store():
    rng = np.random.default_rng(1)
    modes = rng.standard_normal((5, C, H, W))
    a = np.zeros((N + L, 5))
    for t in range(1, N + L):
        a[t] = 0.7 * a[t - 1] + rng.standard_normal(5)
    x = np.einsum("tk,kchw->tchw", a, modes) + 0.3 * rng.standard_normal((N + L, C, H, W))
    phases = np.arange(N + L) % 12
    x += 3.0 * np.cos(2 * np.pi * phases / 12)[:, None, None, None]
    mean = np.stack([x[:N][phases[:N] == p].mean(0) for p in range(12)])
    std = 1.0 + rng.random((12, C, H, W))
    statistics = Statistics(
        mean.astype(np.float32), std.astype(np.float32), np.full(12, N // 12), phases
    )
    return Store(
        x=x.astype(np.float32),
        length=N + L,
        channels=["u", "v"],
        units=["m s-1"] * 2,
        grid=(H, W),
        coords={"lat": np.linspace(-60, 60, H), "lon": np.arange(W) * 60.0},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=np.arange(N + L) * 30.0,
        time_units="days since 2000-01-01",
        calendar="standard",
        mask=None,
        segments=[(0, 20), (20, N + L)],
        statistics=statistics,
    )


def problem(store, members=(), seed=0, points=5):
    table = random_points(store, start=N, stop=N + L, points=points, error=0.5, seed=2)
    return Problem(store, store.statistics, (0, N), (N, N + L), table, members, seed)


def dense_localised(p, length, lags):
    r"""The whole trajectory's prior covariance, written as the equation, pair by pair."""
    z = p.anomalies.reshape(N, C, H * W).astype(np.float64)
    where = positions(p.store)
    rho = gaussian(np.linalg.norm(where[:, None] - where[None], axis=-1) / length)
    segment = np.repeat([0, 1], [20, N - 20])
    out = np.zeros((L, C, H * W, L, C, H * W))
    for t in range(L):
        for u in range(L):
            for n in range(N):
                m = n + u - t
                if 0 <= m < N and segment[n] == segment[m] and abs(u - t) <= lags:
                    s = np.einsum("cp,dq->cpdq", z[n], z[m]) * rho[None, :, None, :] / N
                    out[t, :, :, u] += s * (1 - abs(u - t) / (lags + 1))
    return out.reshape(L * C * H * W, -1)


def kalman(P, p, frames):
    r"""Exact posterior from the observations of some frames, standardised."""
    rows, y, R = [], [], []
    for t in frames:
        c, i, v, s = p.standardised_observations(t)
        rows += list((t * C + c) * H * W + i)
        y += list(v)
        R += list(s**2)
    K = P[:, rows] @ np.linalg.inv(P[np.ix_(rows, rows)] + np.diag(R))
    return K @ np.array(y), P - K @ P[rows]


def test_localised_mean_is_the_kalman_formula(store):
    p, lags = problem(store), 5
    oi = build(config.OI(length_km=4000, lags=lags), p)
    x, _ = kalman(dense_localised(p, 4000, lags), p, range(L))
    want = store.statistics.restore(x.reshape(L, C, H, W), range(N, N + L))
    assert np.abs(oi.mean(0, L) - want).max() < 2e-3
    # and it is not the answer of neighbours' observations left out
    x0, _ = kalman(dense_localised(p, 4000, 0), p, range(L))
    want0 = store.statistics.restore(x0.reshape(L, C, H, W), range(N, N + L))
    assert np.abs(want0 - want).max() > 0.1
    assert np.abs(build(config.OI(length_km=4000, lags=0), p).mean(0, L) - want0).max() < 2e-3


def test_localised_without_observations_near_is_the_prior(store):
    p = problem(store, range(3))
    p = replace(p, table=p.table.at([0]))
    b = build(config.OI(lags=1, length_km=4000), p)
    climate = p.physical(np.zeros((1, *p.shape), np.float32), 4, 5)
    assert np.array_equal(b.mean(4, 5), climate)
    assert np.array_equal(
        b.draw(4, 5)[:, 0],
        np.stack([b._physical(b._prior(m, 4)[None], 4, 5)[0] for m in range(3)]),
    )
    assert np.abs(b.mean(1, 2) - p.physical(np.zeros((1, *p.shape), np.float32), 1, 2)).max() > 0.1


def test_localised_members_have_the_posterior_covariance(store):
    p, M = problem(store, range(1000)), 1000
    oi = build(config.OI(length_km=4000, lags=5), p)
    x = store.statistics.standardise(oi.draw(0, 3), range(N, N + 3)).reshape(M, -1)
    mean, P = kalman(dense_localised(p, 4000, 5), p, range(L))
    n = x.shape[1]
    mean, P = mean[:n], P[:n, :n]
    sd = np.sqrt(np.diag(P))
    assert np.abs((x.mean(0) - mean) / sd).max() < 5 / np.sqrt(M)
    error = (np.cov(x.T) - P) / np.outer(sd, sd)
    assert np.abs(error).max() < 6 / np.sqrt(M)
    assert np.linalg.norm(error) / n < 1.5 / np.sqrt(M)


def test_eof_mean_and_members_are_the_kalman_formula(store):
    M = 3000
    p = problem(store, range(M))
    oi = build(config.OI(covariance="eof", eofs=4), p)
    z = p.anomalies.reshape(N, -1).astype(np.float64) / np.sqrt(N)
    _, S, V = np.linalg.svd(z, full_matrices=False)
    B = S[:4, None] * V[:4]
    P = B.T @ B + np.diag((z**2).sum(0) - (B**2).sum(0))
    c, i, y, s = p.standardised_observations(1)
    at = c * H * W + i
    K = P[:, at] @ np.linalg.inv(P[np.ix_(at, at)] + np.diag(s**2))
    got = store.statistics.standardise(oi.mean(1, 2), [N + 1]).reshape(-1)
    assert np.abs(got - K @ y).max() < 1e-5
    x = store.statistics.standardise(oi.draw(1, 2), [N + 1]).reshape(M, -1)
    P = P - K @ P[at]
    sd = np.sqrt(np.diag(P))
    assert np.abs((x.mean(0) - K @ y) / sd).max() < 5 / np.sqrt(M)
    assert np.abs((np.cov(x.T) - P) / np.outer(sd, sd)).max() < 6 / np.sqrt(M)


METHODS = {
    "climatology": config.Climatology(),
    "persistence": config.Persistence(),
    "eof": config.OI(covariance="eof", eofs=4),
    "localised": config.OI(lags=2, length_km=4000),
}


@pytest.mark.parametrize("name", METHODS)
def test_blocks_and_members_can_be_drawn_apart(store, name):
    whole = build(METHODS[name], problem(store, range(4))).draw(0, L)
    assert np.isfinite(whole).all() and whole.shape == (4, L, C, H, W)
    apart = build(METHODS[name], problem(store, [3]))
    for a, b in ((4, 6), (0, 1), (1, 4)):  # in any order
        assert np.allclose(apart.draw(a, b)[0], whole[3, a:b], atol=1e-5)
    other = build(METHODS[name], problem(store, range(4), seed=1)).draw(0, L)
    assert not np.allclose(other, whole)


def test_climatology_replays_every_year_and_its_neighbouring_months_once(store):
    p = problem(store, range(24))
    x = build(METHODS["climatology"], p)
    phases = store.statistics.phase(range(N, N + L))
    assert np.allclose(x.mean(0, L), store.statistics.mean[phases])
    members = x.draw(0, L)
    want = []
    for shift in (0, 1, -1):
        z = np.roll(p.anomalies, -shift, axis=0).reshape(4, 12, C, H, W)[:, :L]
        want.append(store.statistics.restore(z.astype(np.float64), range(N, N + L)))
    want = np.concatenate(want)  # four years, three shifts
    for turn in (members[:12], members[12:]):
        distance = np.abs(turn[:, None] - want[None]).max((2, 3, 4, 5))
        assert sorted(distance.argmin(1)) == list(range(12)) and distance.min(1).max() < 1e-4


def test_persistence_keeps_the_last_training_anomaly_and_nothing_later(store):
    p = problem(store, range(4))
    x = build(METHODS["persistence"], p)
    known = store.statistics.standardise(store.x[N - 1 : N], [N - 1])
    kept = store.statistics.standardise(x.mean(0, L), range(N, N + L))
    assert np.allclose(kept, known, atol=1e-5)
    blind = Store(**store.__dict__ | {"x": store.x.copy()})
    blind.x[N:] = np.nan
    assert np.array_equal(
        build(METHODS["persistence"], replace(p, store=blind)).draw(0, L), x.draw(0, L)
    )


def test_what_the_analysis_does_not_see_does_not_matter(store):
    blind = Store(**store.__dict__ | {"x": store.x.copy()})
    p = problem(store, [0])
    blind.x[N:] = np.nan
    q = replace(p, store=blind)
    for name in METHODS:
        assert np.array_equal(
            build(METHODS[name], q).draw(0, 2), build(METHODS[name], p).draw(0, 2)
        )


def test_tapers_are_correlation_functions():
    r = np.linspace(0, 5, 400)
    g = gaspari_cohn(r)
    assert g[0] == 1 and gaspari_cohn(np.array([2 * np.sqrt(10 / 3)]))[0] == 0
    assert abs(np.interp(0.1, r, g) - np.interp(0.1, r, gaussian(r))) < 2e-4  # same curvature
    assert bartlett(np.arange(4), 2).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    where = np.random.default_rng(0).random((200, 3))
    for name in ("gaussian", "gaspari_cohn"):
        F = factor(where, 0.4, name, tolerance=1e-6).astype(np.float64)
        f = {"gaussian": gaussian, "gaspari_cohn": gaspari_cohn}[name]
        rho = f(np.linalg.norm(where[:, None] - where[None], axis=-1) / 0.4)
        assert np.abs(F @ F.T - rho).max() < 1e-4


def test_bad_input(store):
    p = problem(store)
    with pytest.raises(BadInput, match="48 EOFs of 48 training frames"):
        build(config.OI(covariance="eof", eofs=48), p)
    with pytest.raises(BadInput, match="without observations"):
        build(config.OI(), replace(p, table=None))
    with pytest.raises(BadInput, match="frames 0 to 99"):
        replace(p, training=(0, 100))
    with pytest.raises(BadInput, match="two years"):
        build(config.Climatology(), replace(p, training=(0, 12)))
    with pytest.raises(ValueError):
        config.OI(eof=3)


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("name", ["eof", "localised"])
def test_interpolated_rows_by_the_kalman_formula(store, name, correlated):
    r"""Rows between grid points and sums of two channels, errors white or correlated."""
    M, k, D = 800, 2, 9
    rng = np.random.default_rng(3)
    lat, lon = rng.uniform(-55, 55, D), rng.uniform(0, 359, D)
    total = Derived(
        name="sum", units="m s-1", of=("u", "v"), operator="column", weights=(2.0, 1.0)
    )
    table = ObservationTable(
        frame=np.full(D, k), channel=np.arange(D) % 3, point=nearest_points(store, lat, lon)[0],
        value=3 * rng.standard_normal(D), error=rng.uniform(0.3, 0.8, D), lat=lat, lon=lon,
        time=np.full(D, store.time[N + k]), station=np.full(D, ""), channels=("u", "v"),
        units=tuple(store.units), time_units=store.time_units,
        forward=Forward(space="bilinear", derived=(total,)),
    )  # fmt: skip
    errors = Errors(length_km=dict.fromkeys(("u", "v", "sum"), 4000.0) if correlated else {})
    p = Problem(store, store.statistics, (0, N), (N, N + L), table, range(M), 0, errors)
    fields = {"eof": config.OI(covariance="eof", eofs=4),
              "localised": config.OI(length_km=4000, lags=0)}  # fmt: skip
    oi = build(fields[name], p)
    # everything dense: B of the EOFs and what they leave, A from what basis states are seen as
    n = C * H * W
    if name == "eof":
        z = p.anomalies.reshape(N, -1).astype(np.float64) / np.sqrt(N)
        _, S, V = np.linalg.svd(z, full_matrices=False)
        B = S[:4, None] * V[:4]
        P = B.T @ B + np.diag((z**2).sum(0) - (B**2).sum(0))
    else:
        P = dense_localised(p, 4000, 0)[:n, :n]  # every frame's, where none knows of another
    op = Operator(table, store, N, L)
    A = op.see(lambda f: np.eye(n).reshape(n, C, H, W), [k]).T
    mean, std = (np.broadcast_to(a[(N + k) % 12], (C, H, W)).reshape(-1).astype(float)
                 for a in (store.statistics.mean, store.statistics.std))  # fmt: skip
    R = p.R.apply(np.eye(D), np.arange(D))
    assert (np.abs(R - np.diag(np.diag(R))).max() > 0.01) == correlated
    A_z = A * std
    K = P @ A_z.T @ np.linalg.inv(A_z @ P @ A_z.T + R)
    x, cov = K @ (table.value - A @ mean), P - K @ A_z @ P
    got = store.statistics.standardise(oi.mean(k, k + 1), [N + k]).reshape(-1)
    assert np.abs(got - x).max() < 1e-5 < 0.1 < np.abs(x).max()
    members = store.statistics.standardise(oi.draw(k, k + 1), [N + k]).reshape(M, -1)
    sd = np.sqrt(np.diag(cov))
    assert np.abs((members.mean(0) - x) / sd).max() < 5 / np.sqrt(M)
    assert np.abs((np.cov(members.T) - cov) / np.outer(sd, sd)).max() < 6 / np.sqrt(M)
    if name == "localised":  # what a frame tells of the next
        P = dense_localised(p, 4000, 1)
        here, there = (slice(n * f, n * (f + 1)) for f in (k, k + 1))
        K = P[there, here] @ A_z.T @ np.linalg.inv(A_z @ P[here, here] @ A_z.T + R)
        oi = build(config.OI(length_km=4000, lags=1), p)
        got = store.statistics.standardise(oi.mean(k + 1, k + 2), [N + k + 1]).reshape(-1)
        assert np.abs(got - K @ (table.value - A @ mean)).max() < 1e-5
        members = store.statistics.standardise(oi.draw(k + 1, k + 2), [N + k + 1])
        cov = P[there, there] - K @ A_z @ P[here, there]
        off = np.cov(members.reshape(M, -1).T) - cov
        sd = np.sqrt(np.diag(cov))
        assert np.abs(off / np.outer(sd, sd)).max() < 6 / np.sqrt(M)
    nothing = store.statistics.standardise(oi.mean(0, 1), [N]).reshape(-1)
    assert np.abs(nothing).max() < 1e-6  # a frame without observations is the climatology
    for change, said in (
        ({"forward": Forward(time="linear")}, "rows between frames"),
        ({"forward": Forward(derived=(total.model_copy(update={"operator": "speed"}),))},
         "'sum' is no linear function"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            build(fields[name], replace(p, table=replace(table, **change)))
