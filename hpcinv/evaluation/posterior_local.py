r"""Is a posterior right at each observation? The local classifier two-sample test (L-C2ST).

Ranks and coverage are averages over observations: a posterior that is too narrow for half of
them and too wide for the others may pass. Linhart et al. (2023, https://arxiv.org/abs/2306.03580)
train a classifier to tell pairs :math:`(\theta^*_i, x_i)`, simulated, from pairs
:math:`(\theta_i, x_i)` with :math:`\theta_i \sim q(\cdot \mid x_i)`. Where its probability d
departs from one half, the posterior is wrong; at an observation the statistic is

.. math:: t(x) = \tfrac{1}{M} \sum_j \big(d(\theta_j, x) - \tfrac{1}{2}\big)^2, \qquad
    \theta_j \sim q(\cdot \mid x),

and over all observations its mean. If q is exact, the two parameters of a pair may change places:
classifiers trained on pairs that were exchanged at random give the distribution of t, and the
p-value, its rank in it, is exact whatever the classifier is.

Here :math:`\theta` is seen in deviations of the posterior's own samples from their mean, so that
bias and spread look alike at each observation, and x by the first principal components of what
the networks make of it. The classifier is a quadratic form in :math:`\theta` whose coefficients
depend on x, fitted by ridge regression of the labels: a thousand of them cost one solution. Where
a posterior errs is told as sharply as such coefficients can vary, no sharper: beside a sudden
error, right places are called wrong, too.
"""

from __future__ import annotations

__all__ = ["local_test", "pairs"]

from collections.abc import Mapping
from typing import Any

import numpy as np

NULLS = 999  # classifiers of exchanged pairs: the least p must survive Holm's correction
POINTS = 40  # samples at which a classifier is asked, of each observation
COMPONENTS = 6  # of x
LEVELS = np.linspace(0.05, 0.95, 19)
RIDGE = 0.1  # beside features of variance one


def pairs(samples: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    r"""What the test needs of some observations, in deviations of the posterior.

    Arguments:
        samples: Of the posterior, in quantiles of the prior or any other coordinates, (B, N, P).
        truth: The parameters simulated with, in the same, (B, P); or NaN.

    Returns:
        `local_truth` and `local_drawn` (B, P), the two of each pair, and `local_points`
        (B, M, P), other samples.
    """
    rest = samples[:, 1:]
    mean = rest.mean(1)
    std = np.maximum(rest.std(1, ddof=1), 1e-12)
    # Of the samples that make mean and deviation, every so many; far from all is far enough.
    points = rest[:, np.linspace(0, rest.shape[1] - 1, min(POINTS, rest.shape[1])).astype(int)]
    return {
        "local_truth": np.clip((truth - mean) / std, -8, 8),
        "local_drawn": np.clip((samples[:, 0] - mean) / std, -8, 8),
        "local_points": np.clip((points - mean[:, None]) / std[:, None], -8, 8),
    }


def local_test(
    withheld: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    r"""The test over withheld simulations, and at observations.

    Arguments:
        withheld: What :func:`pairs` gives, and `features` (n, F).
        observed: `local_points` and `features` of observations whose parameters nobody knows.
        seed: Of the exchanges.

    Returns:
        `statistic` and `p` over all withheld simulations, `share` of them whose own p is at most
        0.05, `curve`, the share at other levels, and `observed`, the p of each observation, where
        there are some.
    """
    n = len(withheld["local_truth"])
    place = _Components(withheld["features"])
    x = place(withheld["features"])
    form = _form(withheld["local_truth"]) - _form(withheld["local_drawn"])
    rows = form[:, :, None] * x[:, None]  # (n, Q, X)
    # What depends on x weighs as much together as what does not.
    scale = np.sqrt(np.mean(rows**2, axis=0) * np.array([1] + [x.shape[1] - 1] * (x.shape[1] - 1)))
    scale[scale < 1e-9] = np.inf
    rows = (rows / scale).reshape(n, -1)
    # Labels are +1/2 for a truth and -1/2 for a sample: a pair counts by its difference, and an
    # exchange turns its sign. What is of x alone is the same for both and drops out.
    rng = np.random.default_rng([seed, 2306])
    sign = np.concatenate([np.ones((1, n)), 1 - 2.0 * (rng.random((NULLS, n)) < 0.5)])
    square = rows.T @ rows + RIDGE * n * np.eye(rows.shape[1])
    weight = np.linalg.solve(square, rows.T @ sign.T / 2).T.reshape(-1, *scale.shape) / scale

    def asked(found: Mapping[str, np.ndarray]) -> np.ndarray:
        r"""t of each classifier at each observation, (1 + nulls, B)."""
        out = []
        for p, at in zip(found["local_points"], place(found["features"]), strict=True):
            out.append(np.mean((weight @ at @ _form(p).T) ** 2, axis=1))
        return np.stack(out, 1)

    def rank(t: np.ndarray) -> np.ndarray:
        return (1 + (t[1:] >= t[:1]).sum(0)) / (NULLS + 1)

    t = asked(withheld)
    own = rank(t)
    told: dict[str, Any] = {
        "statistic": float(t[0].mean()),
        "typical": float(np.median(t[1:].mean(1))),
        "p": float(rank(t.mean(1))),
        "share": float(np.mean(own <= 0.05)),
        "curve": [{"nominal": float(v), "found": float(np.mean(own <= v))} for v in LEVELS],
        "simulations": n,
    }
    if observed is not None:
        told["observed"] = [float(v) for v in rank(asked(observed))]
    return told


class _Components:
    r"""The first principal components of features, with unit deviations, and their squares."""

    def __init__(self, features: np.ndarray) -> None:
        f = np.asarray(features, np.float64)
        self.mean, std = f.mean(0), f.std(0)
        self.std = np.where(std > 0, std, 1.0)
        _, size, axes = np.linalg.svd((f - self.mean) / self.std, full_matrices=False)
        keep = size[:COMPONENTS] > 1e-6 * size[0]
        self.axes = (axes[:COMPONENTS] / size[:COMPONENTS, None])[keep] * len(f) ** 0.5

    def __call__(self, features: np.ndarray) -> np.ndarray:
        c = np.clip((features - self.mean) / self.std @ self.axes.T, -4, 4)
        return np.concatenate([np.ones((len(c), 1)), c, c**2 - 1], axis=1)


def _form(theta: np.ndarray) -> np.ndarray:
    r"""All products of at most two parameters: (n, P) to (n, Q)."""
    i, j = np.triu_indices(theta.shape[1])
    return np.concatenate([theta, theta[:, i] * theta[:, j]], axis=1)
