"""The best fit of a simulator: least squares by scipy, and what it finds that predictions hide."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.special import ndtr

from hpcinv.evaluation.posterior_fit import departure, p_values
from hpcinv.inference.best_fit import NOISE, best_fit
from hpcinv.simulators.base import Axis, Key, Output, Parameter, Prior
from hpcinv.simulators.running import Runner

T = np.linspace(0.1, 4, 12)
SIGMA = 0.05


class Decay:
    """a exp(-b t) + c, seen with noise."""

    batched = True

    def __init__(self, limit=10.0):
        self.limit = limit  # of b, beyond which it fails
        self.prior = Prior([Parameter("a", 0.5, 3, "m"), Parameter("b", 0.1, 5, "s-1", "log"),
                            Parameter("c", -1, 1, "m")])  # fmt: skip
        self.outputs = Output("x", "m", (Axis("t", "s", tuple(T)),))

    def simulate(self, theta, key):
        a, b, c = theta.double().T[:, :, None]
        x = a * torch.exp(-b * torch.from_numpy(T)) + c
        return torch.where(b > self.limit, torch.nan, x).float()

    def noise(self, x, key):
        return x + SIGMA * key.normal("instrument", x.shape[1:])


def fitted(x, theta, simulator=None, steps=12, ids=None):
    simulator = simulator or Decay()
    ids = range(len(x)) if ids is None else ids
    return best_fit(theta, x, ids=ids, simulator=simulator, prior=simulator.prior,
                    runner=Runner(lambda: simulator, simulator), steps=steps, seed=3)  # fmt: skip


def drawn(n, seed=0, simulator=None):
    simulator = simulator or Decay()
    key = Key(seed, range(n))
    theta = simulator.prior.sample(key)
    return theta, simulator.noise(simulator.simulate(theta, key), key).numpy()


def test_it_is_the_least_squares_of_scipy():
    _, x = drawn(12)
    x[3, 4:7] = np.nan
    simulator = Decay()
    begin = simulator.prior.sample(Key(9, range(12 * 8))).numpy().reshape(12, 8, 3)
    misfit, _ = fitted(x, begin, steps=30)
    for i in range(12):  # the same noise's mean and deviation as it takes
        zero = torch.zeros(1, 12)
        key = Key(3, [i], 2)
        e = np.stack([simulator.noise(zero, key.again(3 + k))[0].numpy() for k in range(NOISE)])

        def residuals(z, e=e, i=i):
            at = simulator.prior.from_quantile(torch.from_numpy(ndtr(z)[None]))
            m = simulator.simulate(at, None)[0].double().numpy() + e.mean(0)
            return np.nan_to_num((x[i] - m) / e.std(0, ddof=1)), z

        # From several places: the smallest sum is what is looked for.
        best = min(
            (least_squares(lambda z: np.concatenate(residuals(z)), z0, diff_step=1e-3)
             for z0 in (np.zeros(3), np.ones(3), -np.ones(3), np.array([1.0, -1, 0.5]))),
            key=lambda f: f.cost,
        )  # fmt: skip
        assert misfit[i] == pytest.approx((residuals(best.x)[0] ** 2).sum(), rel=0.02, abs=0.02)
    # What is left are the numbers less the parameters.
    assert 6 < np.mean(misfit) < 13
    # An observation's fit is its own: not of the others of the batch.
    alone, _ = fitted(x[5:6], begin[5:6], steps=30, ids=[5])
    assert alone[0] == pytest.approx(misfit[5], rel=1e-5)


def test_what_cannot_be_simulated_does_not_spoil_a_fit():
    _, x = drawn(12)
    begin = np.tile(np.array([1.0, 0.5, 0.0]), (12, 1, 1))
    misfit, theta = fitted(x, begin, Decay(limit=1.0))
    assert np.isfinite(misfit).all() and (theta[:, 1] <= 1).all()
    misfit, _ = fitted(x[:3], begin[:3], Decay(limit=0.0), steps=2)
    assert np.isinf(misfit).all()


def test_it_finds_what_a_wide_posterior_hides():
    """A posterior twenty times as wide as the data allow foretells nearly anything; the best fit
    finds a line of six deviations, and raises no more false alarms than told."""
    simulator = Decay()

    def judged(n, seed, line=0.0):
        theta, x = drawn(n, seed)
        x[:, 5] += line * SIGMA
        key = Key(seed, range(n * 16), 1)
        z = torch.special.ndtri(simulator.prior.quantile(theta))[:, None]
        z = z + 0.7 * key.normal("wide", (3,)).reshape(n, 16, 3)
        wide = simulator.prior.from_quantile(torch.special.ndtr(z)).reshape(-1, 3)
        shown = simulator.noise(simulator.simulate(wide, None), key).numpy()
        begin = wide.numpy().reshape(n, 16, 3)[:, :8]
        return {"x": x, "features": x[:, :2],
                "departure": departure(x, shown.reshape(n, 16, 12)),
                "misfit": fitted(x, begin, steps=8)[0]}  # fmt: skip

    withheld = judged(500, 10)
    same, line = p_values(withheld, judged(400, 11)), p_values(withheld, judged(200, 12, 6.0))

    def share(found, name):
        return float(np.mean(np.array(found["statistics"][name]["p"]) <= 0.05))

    power = {k: share(line, k) for k in line["statistics"]}
    power["all"] = float(np.mean(np.array(line["p"]) <= 0.05))
    print(f"false alarms {share(same, 'best fit'):.3f}, power {power}")
    assert share(same, "best fit") <= 0.05 + 3 * math.sqrt(0.05 * 0.95 * (1 / 400 + 1 / 500))
    assert power["best fit"] > 0.9 and power["predictive"] < 0.3 and power["all"] > 0.7
