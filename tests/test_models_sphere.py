r"""Smooth fields on the sphere have the covariance that the localisation uses."""

import numpy as np

from hpcinv.models.sphere import SmoothFields, correlation, spectrum, unit_vectors

LAT, LON = np.linspace(-87.5, 87.5, 15), np.arange(0, 360, 15.0)


def _points():
    rows, columns = np.meshgrid(LAT, LON, indexing="ij")
    return unit_vectors(rows.ravel(), columns.ravel())


def test_basis_reproduces_the_correlation_exactly():
    fields = SmoothFields(LAT, LON, 2000.0)
    p = _points()
    found = fields.basis.T @ fields.basis
    # The addition theorem: sum over orders of Y Y' = (2 l + 1) P_l(cos gamma).
    np.testing.assert_allclose(found, correlation(p @ p.T, 2000.0), atol=2e-5)
    np.testing.assert_allclose(np.diag(found), 1.0, atol=2e-5)


def test_correlation_is_nearly_gaussian_in_distance():
    angle = np.linspace(0, 0.8, 9)
    wanted = np.exp(-((angle * 6371.0) ** 2) / (2 * 2000.0**2))
    np.testing.assert_allclose(correlation(np.cos(angle), 2000.0), wanted, atol=0.02)
    assert abs(spectrum(2000.0).sum() - 1) < 1e-12


def test_draws_are_the_basis_times_noise():
    fields = SmoothFields(LAT, LON, 3000.0)
    rng = np.random.default_rng(3)
    noise = np.random.default_rng(3).standard_normal((5, len(fields.rows)), dtype=np.float32)
    wanted = (noise @ fields.basis).reshape(5, *fields.grid)
    np.testing.assert_allclose(fields.draw(5, rng), wanted, atol=1e-5)
