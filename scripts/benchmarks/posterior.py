r"""How far are our posterior samplers from exact posteriors? The linear-Gaussian chain.

x[i+1] = 0.95 Q x[i] + noise with stationary covariance I; L frames of 4 variables, of which two
are observed at every 4th frame with σ = 0.1. The denoisers of any run of frames are exact, so
what is measured is composition, guidance and sampler. All is matrix-free, as in production.

Printed per setting: rms error of the mean in posterior standard deviations (averaged over members
and observation draws, less the sampling error expected of that many members), ratio of standard
deviations, denoiser calls, window evaluations per frame, seconds, events.

    python scripts/benchmarks/posterior.py --members 256 --draws 4 --only junction
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.diffusion import noise

VARIABLES, SIGMA = 4, 0.1


class Chain:
    r"""The chain of ``length`` frames and its exact smoother."""

    def __init__(self, length: int) -> None:
        self.length = length
        # A fixed rotation (torch's own generator, seed 1): one chain for all tables ever printed.
        g = torch.Generator().manual_seed(1)
        g = torch.randn(VARIABLES, VARIABLES, dtype=torch.float64, generator=g)
        A = 0.95 * torch.linalg.qr(g)[0]
        powers = [torch.eye(VARIABLES, dtype=torch.float64)]
        for _ in range(length):
            powers.append(A @ powers[-1])
        rows = [
            torch.cat([powers[i - j] if i >= j else powers[j - i].T for j in range(length)], 1)
            for i in range(length)
        ]
        self.C = torch.cat(rows, 0)
        self.frame = [i for i in range(0, length, 4) for _ in range(2)]
        self.channel = [c for _ in range(0, length, 4) for c in range(2)]
        self.at = torch.tensor(self.frame) * VARIABLES + torch.tensor(self.channel)
        H = torch.eye(len(self.C), dtype=torch.float64)[self.at]
        S = H @ self.C @ H.T + SIGMA**2 * torch.eye(len(H), dtype=torch.float64)
        self.K = self.C @ H.T @ torch.linalg.inv(S)
        self.std = (self.C - self.K @ H @ self.C).diagonal().sqrt()
        self.root = torch.linalg.cholesky(self.C)

    def moments(self, window: int) -> torch.Tensor:
        n = window * VARIABLES
        return self.C[:n, :n].reshape(window, VARIABLES, window, VARIABLES)

    def denoiser(self, window: int, step: int = 1):
        reach = (window - 1) * step + 1
        return assimilation.StationaryGaussian(
            torch.zeros(reach, VARIABLES, dtype=torch.float64),
            self.moments(reach),
            VESchedule(1e-3, 1e2),
            step,
        )

    def observe(self, draw: int):
        r"""An observation draw: the likelihood, and the exact posterior mean."""

        z = noise.normal((len(self.C),), seed=draw, purpose="truth", dtype=torch.float64)
        e = noise.normal((len(self.at),), seed=draw, purpose="error", dtype=torch.float64)
        y = (self.root @ z)[self.at] + SIGMA * e

        class Table:
            frame, channel, point = self.frame, self.channel, [0] * len(self.frame)
            value, error = y.numpy(), [SIGMA] * len(self.frame)

        likelihood = assimilation.PointLikelihood(
            Table, shape=(VARIABLES,), length=self.length, dtype=torch.float64
        )
        return likelihood, self.K @ y


def measure(chain: Chain, draws: int, members: int, **settings) -> dict:
    r"""Errors over observation draws."""

    bias, spread, events, began = [], [], 0, time.perf_counter()
    for draw in range(draws):
        likelihood, mean = chain.observe(draw)
        result = assimilation.sample(
            shape=(VARIABLES,), length=chain.length, members=range(members),
            likelihood=likelihood, dtype=torch.float64, batch=members, rows=1 << 20,
            seed=draw, **settings,
        )  # fmt: skip
        x = result.x.flatten(1)
        error = ((x.mean(0) - mean) / chain.std).square().mean()
        spread.append(float((x.std(0) / chain.std).mean()))
        # The mean of M members has variance (spread)²/M by itself.
        bias.append(float(error) - spread[-1] ** 2 / members)
        events += len(result.diagnostics["events"])
    d = result.diagnostics

    return {
        "mean": math.copysign(abs(sum(bias) / draws) ** 0.5, sum(bias)),
        "spread": sum(spread) / draws,
        "calls": d["calls"],
        "per_frame": d["evaluations_per_frame"],
        "products": d["network_products"],
        "residual": d["worst_residual"],
        "events": events,
        "seconds": (time.perf_counter() - began) / draws,
    }


SAMPLERS = {
    "heun 31": {"method": "heun", "steps": 31},
    "ab 63": {"method": "adams-bashforth", "steps": 63},
    "ddpm 128": {"method": "ddpm", "steps": 128},
    "heun 32": {"method": "heun", "steps": 32},
    "heun 32+4": {"method": "heun", "steps": 32, "corrections": 4},
    "heun 64+8": {"method": "heun", "steps": 64, "corrections": 8},
}


def settings(chain: Chain, solver: dict) -> dict[str, dict]:
    L = chain.length
    full = {"window": L, "denoiser": chain.denoiser(L)}
    out = {"full, own": full | {"guidance": solver}}
    for W, V in ((9, 5), (17, 9)):
        base = {"window": W, "overlap": V, "denoiser": chain.denoiser(W)}
        markov = assimilation.MarkovCovariance(chain.moments(W), L, W, V)
        for rule in ("center", "junction"):
            name, both = f"{rule} {W}/{V}", base | {"compose": rule}
            out |= {
                f"{name}, per window": both | {"guidance": solver | {"scope": "window"}},
                f"{name}, own": both | {"guidance": solver},
                f"{name}, averaged": both | {"guidance": solver | {"covariance": "averaged"}},
                f"{name}, markov": both
                | {"guidance": solver | {"covariance": "markov"}, "markov": markov},
            }
        coarse = assimilation.Coarse(4, (L - 1) // 4 + 1, 1, chain.denoiser((L - 1) // 4 + 1, 4))
        for cov in ("own", "averaged", "markov"):
            out[f"coarse + junction {W}/{V}, {cov}"] = base | {
                "compose": "junction", "coarse": coarse, "markov": markov,
                "guidance": solver | {"covariance": cov},
            }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=49)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=26)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--solver", default="cg")
    parser.add_argument("--only", default="", help="parts of settings' names: a;b")
    parser.add_argument("--sampler", default="", help="parts of samplers' names: a;b")
    parser.add_argument("--delta", type=float, default=0.2)
    args = parser.parse_args()

    chain = Chain(args.length)
    solver = {"solver": args.solver, "iterations": args.iterations, "tolerance": args.tolerance}
    print(f"{'setting':34s} {'sampler':10s}  mean  spread  calls /frame   s/draw residual events")
    for name, setting in settings(chain, solver).items():
        for label, sampler in SAMPLERS.items():
            if not any(part in name for part in args.only.split(";")):
                continue
            if not any(part in label for part in args.sampler.split(";")):
                continue
            sampler = sampler | {"delta": args.delta}
            r = measure(chain, args.draws, args.members, sampler=sampler, **setting)
            print(
                f"{name:34s} {label:10s} {r['mean']:5.2f} {r['spread']:6.3f} {r['calls']:6d} "
                f"{r['per_frame']:6.0f} {r['seconds']:8.1f} {r['residual']:8.1e} {r['events']:5d}",
                flush=True,
            )


if __name__ == "__main__":
    main()
