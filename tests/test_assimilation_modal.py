"""The covariance of a denoiser's Gaussian part is sigma^2 / alpha times its Jacobian, exactly."""

import pytest
import torch

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
