"""Calibration checks on a Gaussian whose posterior is exact, and on ones spoilt on purpose."""

import math

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.evaluation.posterior_checks import holm, judge, one_by_one, uniformity
from hpcinv.evaluation.posterior_fit import Distance, departure, p_values
from hpcinv.evaluation.posterior_report import posterior_verdict
from hpcinv.inference.observed import File
from hpcinv.simulators.base import Axis, Output, Parameter, Prior

PRIOR = Prior([Parameter("a", -40, 40, "1"), Parameter("b", -40, 40, "1")])
C = np.array([[1.0, 0.3], [0.3, 0.25]])  # of the exact posterior, far inside the bounds
L = np.linalg.cholesky(C)


def numbers(rng, n=500, samples=100, spread=1.0, shift=0.0, mixed=False, seed=0):
    """Numbers of n simulations for a posterior that is exact, or spoilt."""
    mean = rng.uniform(-20, 20, (n, 2))
    truth = mean + rng.standard_normal((n, 2)) @ L.T
    root = L * spread
    if mixed:  # standardised with the deviations of the other parameter
        root = np.diag(np.sqrt(np.diag(C))[::-1] / np.sqrt(np.diag(C))) @ L
    centre = mean + shift * np.sqrt(np.diag(C))
    draws = centre[:, None] + rng.standard_normal((n, samples, 2)) @ root.T
    inverse = np.linalg.inv(root @ root.T)
    constant = -0.5 * math.log(np.linalg.det(2 * np.pi * root @ root.T))

    def density(theta):
        r = theta - (centre[:, None] if theta.ndim == 3 else centre)
        return constant - 0.5 * np.einsum("...i,ij,...j->...", r, inverse, r)

    ids = np.arange(n) + 1000 * seed
    return one_by_one(draws, truth, density(draws), density(truth), PRIOR, ids, seed)


def test_an_exact_posterior_raises_false_alarms_as_often_as_told():
    rng = np.random.default_rng(0)
    repeats = 150
    alarms = sum(
        not judge(numbers(rng, 200, 50, seed=k), ["a", "b"])["calibrated"] for k in range(repeats)
    )
    # At most 5%: 150 repeats give at most 7.5 + 3 deviations. Holm's bound is not far from it.
    assert alarms <= 7.5 + 3 * math.sqrt(7.5)
    print(f"false alarms: {alarms} of {repeats}")


@pytest.mark.parametrize(
    "wrong",
    [{"spread": 0.8}, {"spread": 1.25}, {"shift": 0.25}, {"mixed": True}],
    ids=["over-confident", "under-confident", "biased", "mis-standardised"],
)
def test_a_spoilt_posterior_is_flagged(wrong):
    rng = np.random.default_rng(1)
    cards = [judge(numbers(rng, 500, 50, seed=k, **wrong), ["a", "b"]) for k in range(20)]
    caught = np.mean([not c["calibrated"] for c in cards])
    print(f"caught: {caught:.2f}")
    assert caught >= 0.9
    if "spread" in wrong:  # and it is said in which direction it errs
        ends = [c["excess"] for c in cards]
        assert all(e["low"] > 0 if wrong["spread"] < 1 else e["high"] < 0 for e in ends)


def test_numbers_have_their_closed_forms():
    card = judge(numbers(np.random.default_rng(2), 4000, 400), ["a", "b"])
    entropy = 0.5 * math.log(np.linalg.det(2 * np.pi * math.e * C))
    assert card["nll"]["low"] < entropy < card["nll"]["high"]
    assert card["gain"]["low"] < 2 * math.log(80) - entropy < card["gain"]["high"]
    for name, v in zip("ab", np.diag(C), strict=True):
        exact = 1 - 12 * v / 80**2
        assert card["parameters"][name]["contraction"]["value"] == pytest.approx(exact, abs=1e-4)
        assert card["parameters"][name]["told"] == "well"
    # The prior is calibrated, and says that it has learnt nothing.
    rng = np.random.default_rng(3)
    truth, draws = rng.uniform(-40, 40, (500, 2)), rng.uniform(-40, 40, (500, 100, 2))
    flat = np.full(500, -2 * math.log(80))
    # All densities are equal: the region that holds the truth is told by no density.
    dense = np.repeat(flat[:, None], 100, 1) + 1e-9 * rng.standard_normal((500, 100))
    given = flat + 1e-9 * rng.standard_normal(500)
    card = judge(one_by_one(draws, truth, dense, given, PRIOR, np.arange(500)), ["a", "b"])
    assert card["calibrated"] and {p["told"] for p in card["parameters"].values()} == {"hardly"}
    assert card["gain"]["value"] == pytest.approx(0, abs=1e-6)


def test_the_band_is_kolmogorovs():
    assert uniformity(np.linspace(0, 1, 500))["band"] == pytest.approx(
        1.358 / math.sqrt(500), rel=0.02
    )
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # as in R's p.adjust


def scene(rng, n, line=0.0, M=60):
    """Spectra A theta + noise, their exact predictive draws, and the mean as features."""
    theta = rng.standard_normal((n, 2))
    A = np.stack([np.ones(8), np.linspace(-1, 1, 8)], 1)
    sigma = 0.3
    x = theta @ A.T + sigma * rng.standard_normal((n, 8))
    x[:, 5] += line * sigma
    S = np.linalg.inv(A.T @ A / sigma**2 + np.eye(2))
    mean = x @ A @ S / sigma**2
    draws = mean[:, None] + rng.standard_normal((n, M, 2)) @ np.linalg.cholesky(S).T
    predictive = draws @ A.T + sigma * rng.standard_normal((n, M, 8))
    return {"x": x, "features": mean, "departure": departure(x, predictive)}


def test_p_values_are_exact_and_find_what_no_parameters_explain():
    rng = np.random.default_rng(4)
    withheld = scene(rng, 500)
    same = p_values(withheld, scene(rng, 2000))
    for s in same["statistics"].values():
        assert uniformity(np.array(s["p"]))["distance"] < 0.09  # of 250 calibrating ones, too
    alarms = np.mean(np.array(same["p"]) <= 0.05)
    assert alarms < 0.07  # Bonferroni: at most 5%, within the sampling error of the calibration
    line = p_values(withheld, scene(rng, 300, line=6.0))
    power = {k: float(np.mean(np.array(v["p"]) <= 0.05)) for k, v in line["statistics"].items()}
    power["all"] = float(np.mean(np.array(line["p"]) <= 0.05))
    print(f"false alarms {alarms:.3f}, power at a line of 6 deviations {power}")
    assert power["predictive"] > 0.9 and power["data"] > 0.9 and power["all"] > 0.9
    # The embedding alone is blind to it: that is why there are others.
    assert power["embedding"] < 0.5


def test_missing_values_count_as_the_mean_and_failed_draws_not_at_all():
    rng = np.random.default_rng(5)
    d = Distance(rng.standard_normal((5000, 3)) * [1, 10, 100] + 7)
    assert d(np.array([[8.0, 7, 7], [np.nan, 17, np.nan]])) == pytest.approx([1, 1], rel=0.1)
    x, draws = np.zeros((2, 3)), rng.standard_normal((2, 400, 3))
    draws[0, ::2] = np.nan
    draws[1] = np.nan
    x[0] = [3, np.nan, 0]
    found = departure(x, draws)
    assert found[0] == pytest.approx(4.5, rel=0.2) and np.isinf(found[1])


def test_the_verdict_follows_from_the_card():
    rng = np.random.default_rng(6)
    card = judge(numbers(rng, 500, 50), ["a", "b"])
    fine = {"statistics": {"predictive": {"p": [0.5]}}, "p": [0.5], "simulations": 250}
    assert posterior_verdict(card).headline.startswith("Yes: it is calibrated")
    assert posterior_verdict(card | {"observed": fine}).level == "good"
    strange = {"statistics": {"predictive": {"p": [0.004]}}, "p": [0.004], "simulations": 250}
    assert posterior_verdict(card | {"observed": strange}).headline.startswith("Not for this")
    narrow = judge(numbers(rng, 500, 50, spread=0.6), ["a", "b"])
    assert "regions are too small" in posterior_verdict(narrow).headline
    blind = {k: dict(v) for k, v in card["parameters"].items()}
    blind["b"]["told"] = "hardly"
    assert "that the data tell" in posterior_verdict(card | {"parameters": blind}).headline


def test_observations_of_a_file_are_checked(tmp_path):
    class Simulator:
        outputs = Output("x", "m", (Axis("k", "1", (0, 1, 2)),))

    path = tmp_path / "seen.csv"
    path.write_text("1,2,3\n4,nan,6\n")
    seen = File(path, Simulator(), missing=True).read(1, 2)
    assert seen["truth"] is None and np.array_equal(seen["x"], [[4, np.nan, 6]], equal_nan=True)
    for text, said in (
        ("1,2\n", "shape"),
        ("1,2,inf\n", "observation 0 has an infinite value"),
        ("1,2,3\nnan,nan,nan\n", "observation 1 has nothing but missing values"),
        ("1,two,3\n", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            File(path, Simulator(), missing=True)
    # A posterior of whole observations would take a hole for the mean, and be sure of it.
    path.write_text("1,2,3\n4,nan,6\n")
    with pytest.raises(BadInput, match="observation 1 lacks 1 of 3 values"):
        File(path, Simulator(), missing=False)
