"""The particle smoother that judges the sampler is itself judged by a Kalman smoother."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"))

import lorenz


def test_backward_simulation_is_the_exact_smoother_of_a_linear_chain():
    L, phi, q, sigma, M = 12, 0.9, 0.6, 0.5, 1500
    rng = np.random.default_rng(0)
    # x0 ~ N(0, q^2 / (1 - phi^2)): covariance of the chain in closed form
    i = np.arange(L)
    C = q**2 / (1 - phi**2) * phi ** np.abs(i[:, None] - i)
    seen = np.array([0, 4, 5, 11])
    y = np.array([1.0, -0.5, 0.2, 2.0])
    K = C[:, seen] @ np.linalg.inv(C[np.ix_(seen, seen)] + sigma**2 * np.eye(4))
    mean, cov = K @ y, C - K @ C[seen]
    of = dict(zip(seen, y, strict=True))
    like = [
        (lambda x, v=of[t]: -0.5 * ((x[:, 0] - v) / sigma) ** 2) if t in of else None
        for t in range(L)
    ]
    first = q / np.sqrt(1 - phi**2) * rng.standard_normal((4000, 1))
    x = lorenz.smoother(first, lambda x: phi * x, q, like, M, rng)[..., 0]
    std = np.sqrt(np.diag(cov))
    assert np.abs((x.mean(0) - mean) / std).max() < 0.12
    # correlations in time too: the last frame's message has come back
    assert np.abs(np.cov(x.T) - cov).max() < 0.06 < 0.2 < cov.max()


def test_the_distance_of_shifted_sets_is_the_shift():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((40, 5, 3))
    assert lorenz.w1(a, a[::-1]) < 1e-12
    assert abs(lorenz.w1(a, a + 100) - 100 * np.sqrt(15)) < 1e-9
