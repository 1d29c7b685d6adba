r"""The decoder's error: covariance and samples are two faces of the same residuals."""

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.models.decoder_error import DecoderError
from hpcinv.models.sphere import correlation, unit_vectors

LAT, LON = np.linspace(-80, 80, 6), np.arange(0, 360, 36.0)


def _error(n=5):
    rng = np.random.default_rng(0)
    return DecoderError(rng.standard_normal((n, 2, 6, 10)), LAT, LON, 3000.0, seed=1)


def test_covariance_is_the_schur_product():
    error = _error()
    i, c = np.array([0, 17, 33, 33]), np.array([0, 1, 0, 1])
    r = error.residuals.reshape(5, 2, 60)[:, c, i]
    rows, columns = np.meshgrid(LAT, LON, indexing="ij")
    p = unit_vectors(rows.ravel(), columns.ravel())[i]
    wanted = np.mean(r[:, :, None] * r[:, None, :], 0) * correlation(p @ p.T, 3000.0)
    np.testing.assert_allclose(error.covariance(i, c), wanted, atol=1e-6)
    assert np.linalg.eigvalsh(error.covariance(i, c)).min() > 0


def test_samples_have_that_covariance():
    error = _error()
    i, c = np.array([0, 17, 33, 33, 50]), np.array([0, 1, 0, 1, 1])
    draws = np.stack([error.sample(4, m, 7).reshape(2, 60)[c, i] for m in range(4000)])
    wanted = error.covariance(i, c)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    # 4000 draws: standard error of a correlation at most sqrt(2 / 4000) = 0.022.
    np.testing.assert_allclose(draws.T @ draws / 4000 / scale, wanted / scale, atol=0.09)
    assert np.array_equal(error.sample(4, 3, 7), error.sample(4, 3, 7))
    assert not np.array_equal(error.sample(4, 3, 7), error.sample(4, 3, 8))


def test_file_round_trip_and_damage(tmp_path):
    error = _error()
    path = error.save(tmp_path)
    again = DecoderError.load(tmp_path)
    assert np.array_equal(again.sample(0, 1, 2), error.sample(0, 1, 2))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="decoder error"):
        DecoderError.load(tmp_path)
    with pytest.raises(BadInput, match="decoder error"):
        DecoderError.load(tmp_path / "nowhere")
