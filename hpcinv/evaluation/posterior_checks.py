r"""Is a posterior calibrated? Ranks, expected coverage and TARP over withheld simulations.

Each check gives every withheld simulation a number that is uniform on (0, 1) if the posterior is
exact, and the numbers of n simulations are compared with that by Kolmogorov and Smirnov's
distance: its band :math:`1.36 / \sqrt n` (95%, the exact quantile is used) holds for all levels
at once, and by Holm's correction all checks together raise a false alarm in at most 5% of cases.

With samples :math:`\theta_1 \dots \theta_N` of the posterior given x, and the parameters
:math:`\theta^*` that x was simulated with:

* *rank* of each parameter: the share of samples below :math:`\theta^*` (Talts et al., 2018);
* *level*: the share of samples whose density is above that of :math:`\theta^*`, the credibility
  of the smallest highest-density region that holds it (Hermans et al., 2022);
* *TARP*: the share of samples nearer than :math:`\theta^*` to a point drawn from the prior
  (Lemos et al., 2023), in quantiles of the prior.

Beside them stands a test of each observation by itself (`posterior_local`).

The prior itself passes all of them. What was learnt is told by the contraction of each parameter,
:math:`1 - \mathrm{var}_{post} / \mathrm{var}_{prior}` in quantiles of the prior, and by the gain
:math:`\langle \log q(\theta^* \mid x) - \log p(\theta^*) \rangle` in nats. Whether a parameter's
posterior can be told from its prior at all is asked of each observation: the p-value of
Kolmogorov and Smirnov's test of its samples against the prior.
"""

from __future__ import annotations

__all__ = ["ALARM", "combine", "holm", "judge", "one_by_one", "uniformity"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcinv.diffusion.many import uniforms

ALARM = 0.05  # rate of false alarms of all checks together
LEVELS = np.linspace(0.05, 0.95, 19)
LITTLE = 0.1  # contraction below which the data are said not to tell a parameter


def one_by_one(
    samples: np.ndarray, truth: np.ndarray, density: np.ndarray, truth_density: np.ndarray,
    prior: Any, ids: Sequence[int], seed: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    r"""The numbers of each withheld simulation.

    Arguments:
        samples: With shape (B, N, P).
        truth: The parameters simulated with, (B, P).
        density: Log density of the samples, (B, N).
        truth_density: Log density of the truth, (B).
        prior: A :class:`hpcinv.simulators.base.Prior`.
        ids: Names of the simulations, for the random numbers.
        seed: Of the random numbers: ties between N + 1 ranks are broken by them.

    Returns:
        `rank`, `quantile_mean`, `quantile_var`, `quantile_truth` and `prior_p` (B, P); `level`,
        `tarp`, `nll` and `gain` (B).
    """
    import torch
    from scipy.stats import kstwo

    _, N, P = samples.shape
    ids = np.asarray(ids, np.int64)
    u = uniforms((P + 2,), seed=seed, purpose="ranks", ids=(ids,))
    point = uniforms((P,), seed=seed, purpose="tarp", ids=(ids,))
    q = prior.quantile(torch.from_numpy(np.asarray(samples, np.float64))).numpy()
    t = prior.quantile(torch.from_numpy(np.asarray(truth, np.float64))).numpy()

    def place(below: np.ndarray, tie: np.ndarray) -> np.ndarray:
        return (below.sum(1) + tie) / (N + 1)

    ordered, step = np.sort(q, axis=1), np.arange(N)[:, None] / N
    far = np.maximum(ordered - step, step + 1 / N - ordered).max(1)
    near = np.square(q - point[:, None]).sum(-1) < np.square(t - point).sum(-1)[:, None]
    given = prior.log_prob(torch.from_numpy(np.asarray(truth, np.float64))).numpy()
    return {
        "rank": place(samples < truth[:, None], u[:, :P]),
        "level": place(density > truth_density[:, None], u[:, P]),
        "tarp": place(near, u[:, P + 1]),
        "quantile_mean": q.mean(1),
        "quantile_var": q.var(1, ddof=1),
        "quantile_truth": t,
        "prior_p": kstwo.sf(far, N),
        "nll": -np.asarray(truth_density, np.float64),
        "gain": truth_density - given,
    }


def combine(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    r"""The numbers of several blocks of simulations, one after the other."""
    return {k: np.concatenate([f[k] for f in found]) for k in found[0]}


def uniformity(u: np.ndarray) -> dict[str, float]:
    r"""How far numbers are from uniform: the distance, its band of 95%, and a p-value."""
    from scipy.stats import kstest, kstwo

    test = kstest(u, "uniform")
    band = float(kstwo.ppf(0.95, len(u)))
    return {"distance": float(test.statistic), "band": band, "p": float(test.pvalue)}


def holm(p: Sequence[float]) -> list[float]:
    r"""p-values corrected for their number (Holm, 1979)."""
    order = np.argsort(p)
    raised = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.asarray(p)[order])
    out = np.empty(len(p))
    out[order] = np.minimum(raised, 1.0)
    return [float(v) for v in out]


def mean_and_error(v: np.ndarray) -> dict[str, float]:
    r"""A mean with its interval of 95%."""
    mean, error = float(np.mean(v)), float(np.std(v, ddof=1) / np.sqrt(len(v)))
    return {"value": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}


def _curve(u: np.ndarray) -> list[dict[str, float]]:
    r"""The share of numbers up to each level."""
    return [{"nominal": float(v), "found": float(np.mean(u <= v))} for v in LEVELS]


def judge(
    found: Mapping[str, np.ndarray], names: Sequence[str], local: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    r"""The checks of all simulations together.

    Arguments:
        found: The numbers of :func:`one_by_one`.
        names: Of the parameters.
        local: What `posterior_local.local_test` found, which is one check more.

    Returns:
        A card for people and pages. `calibrated` is False if any check fails after Holm's
        correction; the false-alarm rate is at most `alarm`.
    """
    n, P = found["rank"].shape
    checks = {f"rank of {name}": found["rank"][:, k] for k, name in enumerate(names)}
    checks |= {"coverage": found["level"], "TARP": found["tarp"]}
    told = {name: uniformity(u) for name, u in checks.items()}
    raised = holm([c["p"] for c in told.values()] + ([local["p"]] if local else []))
    for name, p in zip(told, raised, strict=False):
        told[name]["holm"] = p
        told[name]["curve"] = _curve(checks[name])
    # Of the levels: a mean above one half means regions too small.
    excess = mean_and_error(found["level"] - 0.5)
    z = (found["quantile_truth"] - found["quantile_mean"]) / np.sqrt(found["quantile_var"])
    parameters = {}
    ranks = list(told)[:P]
    for k, name in enumerate(names):
        c = mean_and_error(1 - 12 * found["quantile_var"][:, k])
        shift = mean_and_error(found["rank"][:, k] - 0.5)
        parameters[name] = {
            "contraction": c,
            "told": "hardly" if c["high"] < LITTLE else "in part" if c["value"] < 0.5 else "well",
            "rank_shift": shift,
            "z_std": float(np.sqrt(np.mean(z[:, k] ** 2))),
            "prior": {
                "p": float(np.median(found["prior_p"][:, k])),
                "apart": float(np.mean(found["prior_p"][:, k] <= 0.05)),
            },
            **{key: told[ranks[k]][key] for key in ("distance", "p", "holm")},
        }
    return {
        "simulations": n,
        "alarm": ALARM,
        "checks": told,
        **({"local": {**local, "holm": raised[-1]}} if local else {}),
        "calibrated": all(p > ALARM for p in raised),
        "excess": excess,
        "parameters": parameters,
        "nll": mean_and_error(found["nll"]),
        "gain": mean_and_error(found["gain"]),
    }
