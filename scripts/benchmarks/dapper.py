r"""Ensemble Kalman methods on Lorenz-63 and Lorenz-96, beside the numbers DAPPER publishes.

    python scripts/benchmarks/dapper.py [--seeds 3] [--analyses 1000]
    python scripts/benchmarks/dapper.py --beside --seeds 30    # where dapper 1.7.1 is installed

The experiments are DAPPER's mods/Lorenz63/sakov2012.py and mods/Lorenz96/sakov2008.py (github.com/
nansencenter/DAPPER, MIT licence): RMSE of the analysis mean, averaged over the analyses after the
burn-in. Their numbers are rounded to two digits and come from a run of the same length, so that a
few per cent of difference is what another seed gives. Two entries ask for more care. Run itself
(dapper 1.7.1, sakov2008, Var3D(xB=0.02), seeds 3001 and 3002), their 3D-Var of Lorenz-96 gives
0.46 ± 0.02 and 0.45 ± 0.01, not 0.41; no other factor of B does better. And their EnKF of ten
members on Lorenz-63 loses the truth for a while in some runs, theirs as well as ours: `--beside`
gives both the same truths and observations, and then the same random numbers, with which they are
the same filter.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from hpcinv.assimilation import ensemble
from hpcinv.assimilation.oi_taper import gaspari_cohn


def lorenz63(x: np.ndarray) -> np.ndarray:
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], -1)


def lorenz96(x: np.ndarray) -> np.ndarray:
    return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + 8


class Experiment:
    r"""A model, observed everywhere with white noise every `every` steps of dt."""

    def __init__(self, name, rhs, x0, spread, dt, every, variance, burn_in) -> None:
        self.name, self.rhs, self.dt, self.every = name, rhs, dt, every
        self.x0, self.spread, self.variance, self.burn_in = x0, spread, variance, burn_in

    def step(self, x: np.ndarray) -> np.ndarray:
        for _ in range(self.every):
            h, f = self.dt, self.rhs
            k1 = f(x)
            k2 = f(x + h / 2 * k1)
            k3 = f(x + h / 2 * k2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + h * k3))
        return x

    def twin(self, analyses: int, rng: np.random.Generator):
        r"""Truth and observations, both (analyses, n); the first is one interval after x0."""
        n = len(self.x0)
        x = self.x0 + np.sqrt(self.spread) * rng.standard_normal(n)
        truth = np.empty((analyses, n))
        for k in range(analyses):
            x = truth[k] = self.step(x)
        return truth, truth + np.sqrt(self.variance) * rng.standard_normal(truth.shape)

    def score(self, means: np.ndarray, truth: np.ndarray) -> float:
        used = (np.arange(len(truth)) + 1) * self.every * self.dt > self.burn_in
        return float(np.sqrt(((means - truth) ** 2).mean(1))[used].mean())


def filtered(e: Experiment, truth, y, rng, *, M, update, inflation=1.0, turn=False) -> np.ndarray:
    R = np.full(y.shape[1], float(e.variance))
    E = e.x0 + np.sqrt(e.spread) * rng.standard_normal((M, len(e.x0)))
    means = np.empty_like(truth)
    for k in range(len(truth)):
        E = e.step(E)
        E = update(E, y[k], R, rng)
        means[k] = E.mean(0)
        E = ensemble.inflate(E, inflation)
        if turn:
            E = means[k] + ensemble.rotation(M, rng) @ (E - means[k])
    return means


def stochastic(E, y, R, rng):
    # Theirs rescales the centred perturbations, by 5% with ten members: an inflation of its own.
    M = len(E)
    e = np.sqrt(R * M / (M - 1)) * rng.standard_normal(E.shape)
    return ensemble.enkf(E, E, y, R, e)


def square_root(E, y, R, rng):
    return ensemble.etkf(E, E, y, R)


def local(E, y, R, rng, radius=4.0):
    n = E.shape[1]
    d = np.abs(np.arange(n)[:, None] - np.arange(n))
    rho = gaspari_cohn(np.minimum(d, n - d) / radius)
    return ensemble.letkf(E[:, None], E, y, R, lambda a, b: rho[a:b])[:, 0]


def climatology(e, truth, y, rng):
    return np.broadcast_to(truth.mean(0), truth.shape)


def interpolation(e, truth, y, rng):
    mu, P = truth.mean(0), np.cov(truth.T)
    K = P @ np.linalg.inv(P + e.variance * np.eye(len(P)))
    return mu + (y - mu) @ K.T


def three_d_var(factor):
    def run(e, truth, y, rng):
        P = factor * np.cov(truth.T)
        K = P @ np.linalg.inv(P + e.variance * np.eye(len(P)))
        x, means = truth.mean(0), np.empty_like(truth)
        for k in range(len(truth)):
            x = e.step(x)
            x = means[k] = x + K @ (y[k] - x)
        return means

    return run


def ensemble_run(update, **settings):
    return lambda e, truth, y, rng: filtered(e, truth, y, rng, update=update, **settings)


ONE = np.zeros(40)
ONE[0] = 1.0
CASES = [
    (
        Experiment(
            "Lorenz-63", lorenz63, np.array([1.509, -1.531, 25.46]), 2.0, 0.01, 25, 2.0, 16.0
        ),
        [
            ("climatology", 7.6, climatology),
            ("optimal interpolation", 1.25, interpolation),
            ("3D-Var, B = 0.1 C", 1.04, three_d_var(0.1)),
            ("ETKF, N = 3, inflation 1.30", 0.80,
             ensemble_run(square_root, M=3, inflation=1.30)),
            ("ETKF, N = 10, 1.02, rotation", 0.60,
             ensemble_run(square_root, M=10, inflation=1.02, turn=True)),
            ("EnKF, N = 10, 1.04", 0.65, ensemble_run(stochastic, M=10, inflation=1.04)),
            ("EnKF, N = 100, 1.01", 0.56, ensemble_run(stochastic, M=100, inflation=1.01)),
        ],
    ),
    (
        Experiment("Lorenz-96", lorenz96, ONE, 0.001, 0.05, 1, 1.0, 20.0),
        [
            ("climatology", 3.6, climatology),
            ("optimal interpolation", 0.95, interpolation),
            ("3D-Var, B = 0.02 C (run: 0.45)", 0.41, three_d_var(0.02)),
            ("EnKF, N = 40, 1.06", 0.22, ensemble_run(stochastic, M=40, inflation=1.06)),
            ("EnKF, N = 28, 1.08", 0.24, ensemble_run(stochastic, M=28, inflation=1.08)),
            ("ETKF, N = 24, 1.013, rotation", 0.18,
             ensemble_run(square_root, M=24, inflation=1.013, turn=True)),
            ("LETKF, N = 7, 1.04, radius 4", 0.22, ensemble_run(local, M=7, inflation=1.04)),
        ],
    ),
]  # fmt: skip


def beside(seeds: int) -> None:
    r"""DAPPER's own EnKF of ten members on Lorenz-63 and ours, on the same observations."""
    here = Path(__file__).resolve().parent  # where "dapper" is this file
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != here]
    import dapper
    from dapper.da_methods.ensemble import EnKF_analysis, post_process
    from dapper.mods.Lorenz63.sakov2012 import HMM
    from dapper.tools.seeding import rng

    e, M, inflation = CASES[0][0], 10, 1.04
    R = np.full(3, float(e.variance))

    def theirs(E, y, k):
        for _ in range(e.every):
            E = HMM.Dyn(E, 0.0, e.dt)
        E = EnKF_analysis(E, HMM.Obs(k)(E), HMM.Obs(k).noise, y, "PertObs")
        return E.mean(0), post_process(E, inflation, False)

    print("seed   DAPPER   ours")
    found = []
    for s in range(seeds):
        dapper.set_seed(4000 + s)
        xx, yy = HMM.simulate(desc=None)
        y = np.array([yy[k] for k in range(HMM.tseq.Ko + 1)])
        truth, means = xx[HMM.tseq.kko], np.empty_like(y)
        E = HMM.X0.sample(M)
        for k in range(len(y)):
            means[k], E = theirs(E, y[k], k)
        own = filtered(
            e, truth, y, np.random.default_rng(s), M=M, update=stochastic, inflation=inflation
        )
        found.append((e.score(means, truth), e.score(own, truth)))
        print(f"{4000 + s}   {found[-1][0]:.3f}    {found[-1][1]:.3f}", flush=True)
    error = np.std(found, 0, ddof=1) / np.sqrt(seeds)
    for name, x, d in zip(("DAPPER", "ours"), np.transpose(found), error, strict=True):
        print(f"{name:8s} {x.mean():.3f} ± {d:.3f}  median {np.median(x):.3f}  "
              f"({x.min():.3f} to {x.max():.3f})")  # fmt: skip
    E = HMM.X0.sample(M)
    F, apart = E, 0.0
    for k in range(200):
        F, state = e.step(F), rng.bit_generator.state
        E = theirs(E, y[k], k)[1]
        rng.bit_generator.state = state
        drawn = HMM.Obs(k).noise.sample(M) * np.sqrt(M / (M - 1))
        F = ensemble.inflate(ensemble.enkf(F, F, y[k], R, -drawn), inflation)
        apart = max(apart, np.abs(E - F).max())
    print(f"200 cycles from the same random numbers: members differ by {apart:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--analyses", type=int, default=1000)
    parser.add_argument("--beside", action="store_true")
    args = parser.parse_args()
    if args.beside:
        beside(args.seeds)
        return
    for e, methods in CASES:
        print(f"\n{e.name:34s} DAPPER   ours (mean over {args.seeds} seeds, least to most)")
        twins = [e.twin(args.analyses, np.random.default_rng(s)) for s in range(args.seeds)]
        for name, theirs, run in methods:
            found = [
                e.score(run(e, truth, y, np.random.default_rng(100 + s)), truth)
                for s, (truth, y) in enumerate(twins)
            ]
            print(
                f"{name:34s} {theirs:6.2f}   {np.mean(found):.3f}  "
                f"({min(found):.3f} to {max(found):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
