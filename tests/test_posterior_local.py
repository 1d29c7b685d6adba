"""L-C2ST on a conjugate Gaussian whose posterior is exact, and on ones spoilt, also where ranks
and coverage see nothing."""

import numpy as np
import pytest
from test_posterior_checks import PRIOR

from hpcinv.evaluation.posterior_checks import judge, one_by_one
from hpcinv.evaluation.posterior_local import local_test, pairs


def scene(rng, n, spread=lambda x: 1.0, shift=lambda x: 0.0, samples=60):
    r"""theta ~ N(0, 1)², x = theta + N(0, 1): the posterior is N(x / 2, 1 / 2), then spoilt."""
    theta = rng.standard_normal((n, 2))
    x = theta + rng.standard_normal((n, 2))
    s, b = np.broadcast_to(spread(x[:, 0]), n), np.broadcast_to(shift(x[:, 0]), n)
    noise = rng.standard_normal((n, samples, 2)) * np.sqrt(0.5)
    draws = (x / 2 + np.sqrt(0.5) * b[:, None])[:, None] + s[:, None, None] * noise
    return theta, x, draws, s


def found(rng, n, **spoilt):
    theta, x, draws, _ = scene(rng, n, **spoilt)
    return pairs(draws, theta) | {"features": x}


def test_the_conjugate_posterior_is_flagged_as_often_as_told():
    rng = np.random.default_rng(0)
    p = np.array([local_test(found(rng, 120), seed=k)["p"] for k in range(150)])
    print(f"alarms at 5%: {np.mean(p <= 0.05):.3f}, at 20%: {np.mean(p <= 0.2):.3f}")
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert abs(np.mean(p <= 0.2) - 0.2) <= 3 * np.sqrt(0.2 * 0.8 / 150)


@pytest.mark.parametrize(
    "wrong",
    [{"spread": lambda x: 0.75}, {"spread": lambda x: 1.3}, {"shift": lambda x: 0.3}],
    ids=["over-confident", "under-confident", "biased"],
)
def test_a_spoilt_posterior_is_flagged(wrong):
    rng = np.random.default_rng(1)
    p = np.array([local_test(found(rng, 400, **wrong), seed=k)["p"] for k in range(8)])
    print(f"caught: {np.mean(p <= 0.05):.2f}")
    assert np.mean(p <= 0.05) >= 0.85


def test_errors_that_cancel_over_observations_are_found_and_where_they_are():
    rng = np.random.default_rng(2)
    # Too narrow on one side, too wide on the other: on average as wide as it should be.
    wrong = {"spread": lambda x: np.where(x > 0, 0.7, 1.3)}
    theta, x, draws, s = scene(rng, 800, **wrong)

    def density(t):
        r = t - x[:, None] / 2
        return -(r**2).sum(-1) / s[:, None] ** 2 - 2 * np.log(s)[:, None]

    told = local_test(pairs(draws, theta) | {"features": x})
    card = judge(
        one_by_one(draws, theta, density(draws), density(theta[:, None])[:, 0], PRIOR,
                   np.arange(800)), ["a", "b"], told,
    )  # fmt: skip
    ranks = {k: round(c["p"], 3) for k, c in card["checks"].items()}
    print(f"ranks, coverage and TARP: {ranks}; L-C2ST: {told}")
    assert told["p"] <= 0.005 and not card["calibrated"]
    # Biased in proportion to x: found far from zero, and at zero as often as told.
    slope = {"shift": lambda x: 0.4 * x}
    seen = found(rng, 800, **slope)
    other = found(rng, 400, **slope)
    at = np.array(local_test(seen, other)["observed"])
    far = np.abs(other["features"][:, 0])
    where = [float(np.mean(at[side] <= 0.05)) for side in (far > 1, far < 0.1)]
    print(f"found at |x| > 1 and |x| < 0.1: {where}")
    assert where[0] > 0.75 and where[1] < 0.25
