"""The covariance of a denoiser's Gaussian part is sigma^2 / alpha times its Jacobian, exactly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from azula.denoise import GaussianDenoiser
from azula.linalg.covariance import DiagonalCovariance
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.assimilation.exchange import Exchange
from hpcinv.assimilation.modal import ModalCovariance
from hpcinv.models.gaussian_skip import GaussianSkip


@pytest.mark.parametrize("modes", [3, 8])
def test_it_is_the_jacobian_of_the_gaussian_denoiser(modes):
    torch.manual_seed(0)
    skip = GaussianSkip(8, modes)
    x = torch.randn(200, 6, 8) @ torch.randn(8, 8)
    x[:, 1:] += 0.8 * x[:, :-1]
    skip.fit(x)
    skip = skip.double()

    class Denoiser:
        pass

    Denoiser.skip = skip
    for length in (1, 2, 7):
        V = ModalCovariance.of(Denoiser, length)
        v = torch.randn(4, length, 2, 4, dtype=torch.float64)
        for alpha, sigma in ((1.0, 20.0), (1.0, 0.7), (0.6, 0.8), (1.0, 0.01)):
            a, s = torch.full((4,), alpha).double(), torch.full((4,), sigma).double()
            exact = sigma**2 / alpha * skip(v, a, s)  # the denoiser is linear: J v is d(v)
            torch.testing.assert_close(V.apply(v, alpha, sigma), exact, rtol=1e-5, atol=1e-6)


def test_a_denoiser_without_a_gaussian_part_has_none():
    class Plain:
        skip = None

    assert ModalCovariance.of(Plain, 5) is None


LENGTH = 7


def covariance(modes):
    torch.manual_seed(1)
    some, _ = torch.linalg.qr(torch.randn(8, modes, dtype=torch.float64))
    k = torch.arange(modes)
    return ModalCovariance(some, 1.0 / (1 + k), 0.9 - 0.1 * k, 0.1, LENGTH)


@pytest.mark.parametrize("modes", [3, 8])
def test_between_numbers_that_are_seen_it_is_the_same(modes):
    V = covariance(modes)
    seen = torch.rand(LENGTH, 8) < 0.4
    seen[2] = False
    v = torch.randn(20, LENGTH, 2, 4, dtype=torch.float64) * seen.view(LENGTH, 2, 4)
    how = {"exchange": Exchange([], LENGTH), "level": SimpleNamespace(alpha=0.8, sigma=0.6)}
    (whole,) = V([v], **how)
    (found,) = V.among([v], **how, numbers=[row.nonzero()[:, 0] for row in seen])
    mask = seen.view(LENGTH, 2, 4)
    torch.testing.assert_close(found, torch.where(mask, whole, 0.0), rtol=1e-12, atol=1e-13)
    assert float((whole * ~mask).abs().max()) > 0.01  # there is something left out


@pytest.mark.parametrize("solver", ["cg", "gmres"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("number", [12, 15])
def test_a_solve_among_the_numbers_seen_is_that_of_whole_states(linear, solver, number):
    rows = np.arange(number)  # of 56 numbers: less than a fourth, or more

    class Table:
        frame, channel, point = rows % 5, rows % 2, rows * 3 % 4
        value, error = np.cos(rows), 0.2 + 0.05 * rows

    likelihood = assimilation.PointLikelihood(
        Table, shape=(2, 4), length=LENGTH, dtype=torch.float64,
        decoder=None if linear else lambda x, context: x + 0.2 * x**3,
    )  # fmt: skip
    used = []

    class Counted(ModalCovariance):
        def among(self, v, **more):
            used.append(sum(map(len, more["numbers"])))
            return super().among(v, **more)

    class Whole:  # as anybody's covariance is
        def __init__(self, inner):
            self.scatter, self.apply, self._at = inner.scatter, inner.apply, inner._at

        def __call__(self, *a, **b):
            return V(*a, **b)

    V = covariance(3)
    denoiser = GaussianDenoiser(
        torch.zeros(4, 2, 4, dtype=torch.float64),
        DiagonalCovariance(torch.ones(4, 2, 4, dtype=torch.float64)), VESchedule(1e-2, 1e1),
    )  # fmt: skip
    found = {}
    for name, C in (("among", V), ("whole", Whole(V))):
        if name == "among":
            C.__class__ = Counted
        found[name] = assimilation.sample(
            denoiser, shape=(2, 4), length=LENGTH, window=4, overlap=2, members=range(3), seed=0,
            likelihood=likelihood, markov=C, dtype=torch.float64,
            guidance={"covariance": "markov", "solver": solver, "iterations": 6},
            sampler={"method": "heun", "steps": 4},
        ).x  # fmt: skip
    seen = len(set((rows % 5 * 8 + rows % 2 * 4 + rows * 3 % 4).tolist()))
    assert set(used) == ({seen} if number == 12 else set())  # what is dense is solved whole
    torch.testing.assert_close(found["among"], found["whole"], rtol=1e-8, atol=1e-9)
