r"""Sensors that saturate: the best linear approximation, and what it does to a posterior."""

import numpy as np
import pytest
import torch
from test_observations_networks import truth

from hpcinv.assimilation import OperatorLikelihood, sample
from hpcinv.assimilation.modal import ModalCovariance
from hpcinv.io.statistics import Statistics
from hpcinv.models.gaussian_skip import GaussianSkip
from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser
from hpcinv.observations import saturation
from hpcinv.observations.config import Derived, Forward
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import Stations

LIMITS = [(-0.7, 0.7), (None, 0.3), (-0.2, None)]


@pytest.mark.parametrize(("low", "high"), LIMITS)
def test_moments_against_quadrature(low, high):
    m = torch.tensor([-2.0, -0.5, 0.1, 0.6, 0.9, 3.0], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.5, 0.01, 1.0, 0.2, 0.7, 0.3], dtype=torch.float64)
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(4001))
    x, w = 9 * x, 9 * w * torch.exp(-((9 * x) ** 2) / 2) / np.sqrt(2 * np.pi)
    u = m[:, None] + s[:, None] * x
    seen = torch.clamp(u, low, high)
    mean = (w * seen).sum(-1)
    slope = (w * seen * x).sum(-1) / s  # cov(clip(u), u) / s^2
    left = (w * (seen - mean[:, None] - slope[:, None] * s[:, None] * x) ** 2).sum(-1)
    found = saturation.expected(m, s, low, high)
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), m)
    torch.testing.assert_close(gradient, slope, atol=2e-3, rtol=0)
    torch.testing.assert_close(saturation.remainder(m, s, low, high), left, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("low", "high"), LIMITS)
def test_units_do_not_matter(low, high):
    m = torch.tensor([-0.5, 0.1, 0.6], dtype=torch.float64)
    s, small = torch.tensor([0.5, 1e-12, 0.2], dtype=torch.float64), 1e-9
    limits = [None if v is None else small * v for v in (low, high)]
    for of, power in ((saturation.expected, 1), (saturation.remainder, 2)):
        found, wanted = of(small * m, small * s, *limits), of(m, s, low, high)
        torch.testing.assert_close(found / small**power, wanted, rtol=1e-6, atol=1e-9)
        assert torch.isfinite(of(m, torch.zeros(3).double(), low, high)).all()


def test_variance_of_the_modes_is_the_diagonal():
    torch.manual_seed(0)
    x = torch.randn(300, 6, 8) @ torch.randn(8, 8)
    x[:, 1:] += 0.8 * x[:, :-1]
    for modes in (3, 8):
        skip = GaussianSkip(8, modes)
        skip.fit(x)
        V = ModalCovariance.of(type("D", (), {"skip": skip}), 41)
        for alpha, sigma in ((1.0, 3.0), (0.6, 0.8), (1.0, 0.05)):
            variance, alike = V.scatter(alpha, sigma)
            v = torch.zeros(8, 41, 8, dtype=torch.float64)
            v[torch.arange(8), 20, torch.arange(8)] = 1
            rows = V.apply(v, alpha, sigma)
            exact = rows[torch.arange(8), 20, torch.arange(8)]
            torch.testing.assert_close(
                alike, rows.square().sum((1, 2)) / exact**2, rtol=1e-3, atol=0
            )
            torch.testing.assert_close(variance, exact, rtol=1e-3, atol=0)


def _posterior(seen, limit, sigma):
    r"""Mean and deviation of x ~ N(0, 1) given clip(x) + N(0, sigma^2), by quadrature."""
    x = np.linspace(-6, 6, 24001)
    p = np.exp(-(x**2) / 2 - (seen - np.clip(x, -limit, limit)) ** 2 / (2 * sigma**2))
    p /= p.sum()
    mean = (p * x).sum()
    return mean, np.sqrt((p * (x - mean) ** 2).sum())


@pytest.mark.parametrize("covariance", ["own", "markov"])
def test_posterior_beyond_the_limit(covariance, monkeypatch):
    limit, sigma, members = 0.7, 0.1, 400
    lat, lon = np.array([-30.0, 30.0]), np.array([0.0, 120.0, 240.0])
    s = truth(L=1, lat=lat, lon=lon, x=np.zeros((1, 2, 2, 3), np.float32))
    s.statistics = Statistics(np.zeros((1, 2, 2, 3), np.float32),
                              np.ones((1, 2, 2, 3), np.float32), np.full(1, 9),
                              np.zeros(1, int))  # fmt: skip
    satur = Derived(name="cut", units="m s-1", of=("u",), operator="saturation", low=-limit,
                    high=limit)  # fmt: skip
    net = Stations(network="stations", places={"here": (30.0, 0.0)}, channels=["cut"],
                   error={"cut": sigma}, forward=Forward(derived=(satur,)))  # fmt: skip
    table = draw(net, s, start=0, stop=1)
    table.value[:] = 0.75
    prior = TrajectoryDenoiser(2, (2, 3), modes=12, width=8, depth=1)  # N(0, 1), all apart

    def members_of():
        likelihood = OperatorLikelihood(table, s.statistics, range(1), store=s)
        found = sample(
            prior, shape=(2, 2, 3), length=1, window=1, members=range(members), seed=0,
            likelihood=likelihood, batch=members, rows=members,
            guidance={"covariance": covariance, "iterations": 3},
            sampler={"method": "heun", "steps": 24},
        ).x[:, 0]  # fmt: skip
        return found[:, 0, 1, 0].double(), found[:, 1, 1, 0].double()

    mean, std = _posterior(0.75, limit, sigma)
    here, other = members_of()
    assert abs(float(other.mean())) < 0.15 and abs(float(other.std()) - 1) < 0.1
    error = abs(float(here.mean()) - mean), abs(float(here.std()) - std)
    monkeypatch.setattr(OperatorLikelihood, "scattered", lambda self, *scatter: self)
    tangent, _ = members_of()
    before = abs(float(tangent.mean()) - mean), abs(float(tangent.std()) - std)
    told = [f"{float(v):.3f}" for v in (mean, here.mean(), tangent.mean())]
    print("mean beyond the limit: exact, ours, by the slope at one state:", *told)
    assert error[0] < before[0] / 2 and error[1] < before[1] / 2


def test_what_is_left_belongs_to_the_row_that_saturates():
    r"""In a table of plain and saturating rows, in any order."""
    lat, lon = np.array([-30.0, 30.0]), np.array([0.0, 120.0, 240.0])
    rng = np.random.default_rng(0)
    s = truth(L=1, lat=lat, lon=lon, x=np.zeros((1, 2, 2, 3), np.float32))
    s.statistics = Statistics(np.zeros((1, 2, 2, 3), np.float32),
                              np.ones((1, 2, 2, 3), np.float32), np.full(1, 9),
                              np.zeros(1, int))  # fmt: skip
    cut = Derived(name="cut", units="m s-1", of=("v",), operator="saturation", high=0.2)
    net = Stations(network="stations", places={"a": (30.0, 0.0), "b": (-30.0, 120.0)},
                   channels=["u", "cut"], error={"u": 0.1, "cut": 0.5},
                   forward=Forward(derived=(cut,)))  # fmt: skip
    table = draw(net, s, start=0, stop=1)
    table = table.select(np.argsort(-table.channel, kind="stable"))  # saturating rows first
    variance, alike = (torch.from_numpy(rng.uniform(0.5, 2, 12)) for _ in range(2))
    likelihood = OperatorLikelihood(table, s.statistics, range(1), store=s, dtype=torch.float64)
    seen = likelihood.scattered(variance, alike)
    x = torch.from_numpy(rng.standard_normal((3, 1, 2, 2, 3)))
    found = seen.scatter(x, [0])
    density = len(table) / 12
    for row, (channel, point) in enumerate(zip(table.channel, table.point, strict=True)):
        if channel < 2:
            assert not found[:, row].any()
            continue
        k = 6 + point
        left = saturation.remainder(x.flatten(1)[:, k], variance[k].sqrt(), None, 0.2)
        wanted = left * (1 + density * (alike[k] - 1)) / 0.5**2
        torch.testing.assert_close(found[:, row], wanted)
    assert not likelihood.scatters and seen.scatters
