r"""Operators in the likelihood: through the decoder, adjoint, any R; error models exact."""

import numpy as np
import pytest
import torch
from test_assimilation_decoder import CONTEXT, GRID, LENGTH, decoder, state
from test_baselines_oi import C, L, N, problem, store  # noqa: F401
from test_observations_networks import truth

from hpcinv.assimilation import OperatorLikelihood, baselines_config, ensemble
from hpcinv.assimilation.baselines import Problem, build
from hpcinv.errors import BadInput
from hpcinv.io.statistics import Statistics
from hpcinv.observations import errors
from hpcinv.observations.config import Derived, Errors, Forward
from hpcinv.observations.networks import draw, random_points
from hpcinv.observations.networks_config import Noise, RandomPoints, Stations

SPEED = Derived(name="speed", units="m s-1", of=("u", "v"), operator="speed")
LAT, LON = np.linspace(-75, 75, GRID[0]), np.arange(GRID[1]) * 22.5


def world():
    rng = np.random.default_rng(0)
    s = truth(L=LENGTH, lat=LAT, lon=LON,
              x=rng.standard_normal((LENGTH, 2, *GRID)).astype(np.float32))  # fmt: skip
    mean, std = rng.standard_normal((1, 2, *GRID)), 1 + rng.random((1, 2, *GRID))
    s.statistics = Statistics(mean.astype(np.float32), std.astype(np.float32), np.full(1, 9),
                              np.zeros(LENGTH, int))  # fmt: skip
    places = {f"s{k}": (float(a), float(b)) for k, (a, b) in
              enumerate(rng.uniform([-70, -180], [70, 180], (9, 2)))}  # fmt: skip
    net = Stations(network="stations", places=places, channels=["u", "speed"],
                   error={"u": 0.3, "speed": 0.5}, every=2,
                   forward=Forward(space="bilinear", derived=(SPEED,)))  # fmt: skip
    return s, draw(net, s, start=0, stop=LENGTH)


def test_the_support_alone_is_decoded_and_the_adjoint_is_exact():
    s, table = world()
    net = decoder()
    more = {"store": s, "context": CONTEXT, "dtype": torch.float64}
    sparse = OperatorLikelihood(table, s.statistics, range(LENGTH), decoder=net, **more)
    dense = OperatorLikelihood(table, s.statistics, range(LENGTH), decoder=net.decode, **more)
    z, frames = state(net, 3), [2, 1, 0]
    assert sparse.sizes(frames) == [18, 0, 18]
    x = torch.stack([net.decode(z[:, i], CONTEXT[[f, f]]) for i, f in enumerate(frames)], 1)
    x = s.statistics.restore(x, frames)
    rows = sparse._rows(frames)
    want = sparse._operator.see(
        lambda f: x[:, frames.index(f)].numpy(), frames
    ) / table.error[rows]  # fmt: skip
    assert np.abs(dense.operator(z, frames).numpy() - want).max() < 1e-10
    assert np.abs(sparse.operator(z, frames).numpy() - want).max() < 1e-9
    assert torch.allclose(
        sparse.y(frames).double(), torch.from_numpy((table.value / table.error)[rows])
    )
    z = z.requires_grad_()
    v, u = torch.randn_like(z), torch.randn(2, 36, dtype=torch.float64)
    _, Jv = torch.func.jvp(lambda z: sparse.operator(z, frames), (z.detach(),), (v,))
    (Ju,) = torch.autograd.grad(sparse.operator(z, frames), z, u)
    assert abs((Jv * u).sum() - (Ju * v).sum()) < 1e-10


class DecoderError:
    @staticmethod
    def covariance(points, channels):
        rng = np.random.default_rng(7)
        X = rng.standard_normal((2, GRID[0] * GRID[1], 4))[channels, points]
        return X @ X.T


def test_R_counts_correlation_and_the_decoders_error():
    s, table = world()
    how = Errors(length_km={"u": 2000}, factor={"speed": 1.5}, representativeness={"u": 0.2})
    lik = OperatorLikelihood(table, s.statistics, range(LENGTH), store=s, errors=how,
                             decoder_error=DecoderError, dtype=torch.float64)  # fmt: skip
    rows = lik._rows([0])
    t, n = table.select(rows), len(rows)
    where = errors.EARTH_RADIUS_KM * errors.unit_vectors(t.lat, t.lon)
    r = np.linalg.norm(where[:, None] - where[None], axis=-1)
    R = np.diag(np.where(t.channel == 0, 0.3**2 + 0.2**2, (1.5 * 0.5) ** 2))
    both = (t.channel[:, None] == 0) & (t.channel == 0) & ~np.eye(n, dtype=bool)
    R = R + both * 0.9 * 0.3**2 * np.exp(-r / 2000)
    p, mean, std = lik._piece(0)
    z, h = np.zeros(len(p.point)), 1e-6
    see = lambda z: p(z * std.numpy() + mean.numpy())  # noqa: E731
    J = np.stack([(see(z + h * e) - see(z - h * e)) / (2 * h) for e in np.eye(len(z))], 1)
    R = R + J @ DecoderError.covariance(p.point, p.channel) @ J.T
    scale = lik._scale[rows]
    got = lik.covariance(torch.eye(n, dtype=torch.float64), [0]).numpy()
    assert np.abs(got - R / scale / scale[:, None]).max() < 1e-6
    assert np.abs(lik.variance([0]).numpy() - np.diag(got)).max() < 1e-12


def test_a_large_block_is_solved_without_its_matrix(monkeypatch):
    fine = truth(L=1, lat=np.linspace(40, 60, 41), lon=np.linspace(0, 30, 61))
    t = draw(RandomPoints(points=700, channels=["u"], error=0.4), fine, start=0, stop=1)
    R = errors.ErrorCovariance(t, Errors(length_km={"u": 300}))
    rows, v = np.arange(700), np.random.default_rng(0).standard_normal((3, 700))
    solved, product = R.solve(v, rows), R.apply(v, rows)
    monkeypatch.setattr(errors, "DENSE", 10)
    free = errors.ErrorCovariance(t, Errors(length_km={"u": 300}))
    assert np.abs(free.apply(v, rows) - product).max() < 1e-10
    assert np.abs(free.solve(v, rows) - solved).max() < 1e-6 * np.abs(solved).max()
    assert np.abs(free.apply(solved, rows) - v).max() < 1e-8


def test_errors_of_two_variables_are_correlated(monkeypatch):
    _, table = world()
    rows = np.arange(len(table))
    u, same = table.channel == 0, table.frame[:, None] == table.frame
    where = errors.EARTH_RADIUS_KM * errors.unit_vectors(table.lat, table.lon)
    r = np.linalg.norm(where[:, None] - where[None], axis=-1)
    rho = np.where(u[:, None] == u, 1.0, 0.4)
    own = np.eye(len(table))
    v = np.random.default_rng(0).standard_normal((3, len(table)))
    for length, near in (({}, r < 0.01), ({"u": 900, "speed": 900}, np.exp(-r / 900))):
        how = Errors(between={"u": {"speed": 0.4}}, length_km=length, share=0.8)
        R = 0.8 * rho * near * same * table.error[:, None] * table.error
        R = R + 0.2 * own * table.error**2
        for most in (1500, 1):  # kept, and by conjugate gradients
            monkeypatch.setattr(errors, "DENSE", most)
            found = errors.ErrorCovariance(table, how)
            assert np.abs(found.apply(v, rows) - v @ R).max() < 1e-10
            assert np.abs(found.solve(v, rows) - np.linalg.solve(R, v.T).T).max() < 1e-6
    assert np.abs(R - R * own).max() > 0.04
    for wrong, said in (
        (Errors(between={"u": {"w": 0.4}}), "unknown variable 'w'"),
        (Errors(between={"u": {"v": 0.9, "speed": 0.9}, "v": {"speed": -0.9}}), "not positive"),
        (Errors(between={"u": {"v": 0.9}}, length_km={"u": 9}), "over different lengths"),
    ):
        with pytest.raises(BadInput, match=said):
            errors.ErrorCovariance(table, wrong)


def test_the_transform_filter_takes_correlated_errors(store):  # noqa: F811
    table = random_points(store, start=N, stop=N + L, points=10, error=0.5, seed=2)
    how = Errors(length_km={"u": 3000, "v": 3000})
    p = Problem(store, store.statistics, (0, N), (N, N + L), table, range(6), 0, how)
    x = build(baselines_config.Ensemble(method="etkf"), p)._analysis(2).reshape(6, -1)
    rows = np.flatnonzero(table.frame == 2)
    R = errors.ErrorCovariance(table, how).apply(np.eye(len(rows)), rows)
    b = build(baselines_config.Ensemble(method="etkf"), p)
    E = b._replayed(2)
    HE = b.operator.see(lambda f: store.statistics.restore(E[:, None], [N + f])[:, 0], [2])
    want = ensemble.etkf(
        E.reshape(6, -1), HE, table.value[rows], lambda v: np.linalg.solve(R, v.T).T
    )
    assert np.abs(x - want).max() < 1e-9
    with pytest.raises(BadInput, match="unknown variable 'w'"):
        errors.ErrorCovariance(table, Errors(factor={"w": 2}))


def test_bias_of_stations_is_estimated():
    s = truth(L=60)
    places = {f"s{k}": (float(-60 + 8 * k), 20.0 * k) for k in range(12)}
    net = Stations(network="stations", places=places, error=0.5, noise=Noise(station_bias=1.0))
    t = draw(net, s, start=0, stop=60)  # of a truth that is zero: values are departures
    bias, told = errors.station_bias(t, t.value)
    truth_of = {k: t.value[(t.station == k[0]) & (t.channel == "uv".index(k[1]))].mean()
                for k in told}  # fmt: skip
    z = np.array([(told[k][0] - truth_of[k]) / told[k][1] for k in told])
    assert np.abs(z).max() < 1 and len(told) == 24
    n = 60
    for k, (b, sd) in told.items():  # the posterior of a normal mean, in closed form
        d = t.value[(t.station == k[0]) & (t.channel == "uv".index(k[1]))]
        v = max(d.var(ddof=1), 0.25) / n
        assert b == pytest.approx(d.mean() * 0.25 / (0.25 + v)) and sd == pytest.approx(
            np.sqrt(0.25 * v / (0.25 + v))
        )
    assert (t.value - bias).std() < 0.55 < t.value.std()
