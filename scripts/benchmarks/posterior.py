r"""How far are our posterior samplers from exact posteriors? Two chains that know.

The linear-Gaussian chain: x[i+1] = 0.95 Q x[i] + noise with stationary covariance I; L frames of
4 variables, of which two are observed at every 4th frame with σ = 0.1. The denoisers of any run of
frames are exact, so what is measured is composition, guidance and sampler. All is matrix-free, as
in production.

Printed per setting: rms error of the mean in posterior standard deviations (averaged over members
and observation draws, less the sampling error expected of that many members), ratio of standard
deviations, denoiser calls, window evaluations per frame, seconds, events.

    python scripts/benchmarks/posterior.py --members 256 --draws 4 --only junction
    python scripts/benchmarks/posterior.py --oracle well --members 96 --draws 3 --iterations 4

The double well (`--oracle well`) is not Gaussian: it sees MMPS's own error as well.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from azula.denoise import Denoiser, DiracPosterior
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


def measure(chain: Chain, draws: range, members: int, **settings) -> dict:
    r"""Errors over observation draws."""

    bias, spread, events, began = [], [], 0, time.perf_counter()
    for draw in draws:
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
        "mean": math.copysign(abs(sum(bias) / len(draws)) ** 0.5, sum(bias)),
        "spread": sum(spread) / len(draws),
        "calls": d["calls"],
        "per_frame": d["evaluations_per_frame"],
        "products": d["network_products"],
        "residual": d["worst_residual"],
        "events": events,
        "seconds": (time.perf_counter() - began) / len(draws),
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
                f"{name}, own": both | {"guidance": solver | {"scope": "trajectory"}},
                f"{name}, averaged": both | {"guidance": solver | {"covariance": "averaged"}},
                f"{name}, markov": both
                | {"guidance": solver | {"covariance": "markov"}, "markov": markov},
            }
        coarse = assimilation.Coarse(4, (L - 1) // 4 + 1, 1, chain.denoiser((L - 1) // 4 + 1, 4))
        for cov in ("own", "averaged", "markov"):
            out[f"coarse + junction {W}/{V}, {cov}"] = base | {
                "compose": "junction", "coarse": coarse, "markov": markov,
                "guidance": solver | {"covariance": cov, "scope": "trajectory"},
            }  # fmt: skip
    return out


class Well(Denoiser):
    r"""A double-well Markov chain on a grid, u' = u + 0.15 (2u − 2u³) + 0.35 noise.

    Forward–backward gives the exact, differentiable denoiser of any run of frames, and the exact
    marginals given any observations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.schedule = VESchedule(1e-2, 30.0)
        u = torch.linspace(-2.2, 2.2, 61, dtype=torch.float64)
        drift = u + 0.15 * (2 * u - 2 * u**3).clamp(-8, 8)
        P = torch.softmax(-((u[None] - drift[:, None]) ** 2) / (2 * 0.35**2), dim=1)
        law = torch.linalg.matrix_power(P, 1 << 14)[len(u) // 2]
        self.u, self.P, self.law = u, P, (law + law.flip(0)) / 2

    def marginals(self, loglik: torch.Tensor) -> torch.Tensor:
        r"""p(x_i | all) on the grid, from log-likelihoods, both ``(B, T, 61)``."""

        like = torch.exp(loglik - loglik.amax(-1, keepdim=True))
        T = like.shape[1]
        past, ahead = [self.law * like[:, 0]], [torch.ones_like(like[:, 0])]
        for i in range(1, T):
            a = (past[-1] / past[-1].sum(-1, keepdim=True)) @ self.P
            past.append(a * like[:, i])
            b = (ahead[-1] * like[:, T - i]) @ self.P.T
            ahead.append(b / b.amax(-1, keepdim=True))
        both = torch.stack(past, 1) * torch.stack(ahead[::-1], 1)
        return both / both.sum(-1, keepdim=True)

    def forward(self, x_t, t, **kwargs):
        sigma = self.schedule.sigma(t)
        p = self.marginals(-((x_t - self.u) ** 2) / (2 * sigma**2))
        return DiracPosterior(mean=(p @ self.u)[..., None])

    def moments(self, window: int) -> torch.Tensor:
        lags, P = [], torch.eye(len(self.u), dtype=torch.float64)
        for _ in range(window):
            lags.append((self.law * self.u) @ P @ self.u)
            P = P @ self.P
        i = torch.arange(window)
        return torch.stack(lags)[(i[:, None] - i).abs()][:, None, :, None]

    def truth(self, length: int, draw: int) -> torch.Tensor:
        rng = noise.generator(draw, "well")
        i = [int(rng.choice(len(self.u), p=self.law.numpy() / float(self.law.sum())))]
        for _ in range(length - 1):
            p = self.P[i[-1]].numpy()
            i.append(int(rng.choice(len(self.u), p=p / p.sum())))
        return self.u[i]


class Seen:
    r"""y = h(x) + N(0, σ²) at some frames of a scalar trajectory."""

    def __init__(self, y: dict[int, float], sigma: float, h) -> None:
        self._y, self._sigma, self._h = y, sigma, h

    def sizes(self, frames):
        return [int(f in self._y) for f in frames]

    def y(self, frames):
        return torch.tensor([self._y[f] for f in frames if f in self._y], dtype=torch.float64)

    def operator(self, x, frames):
        keep = [i for i, f in enumerate(frames) if f in self._y]
        return self._h(x[:, keep, 0])

    def variance(self, frames):
        return torch.full((sum(self.sizes(frames)),), self._sigma**2, dtype=torch.float64)

    def covariance(self, v, frames):
        return v * self._sigma**2


CASES = {
    "x, 0.3, every 8": (range(4, 33, 8), 0.3, lambda z: z),
    "x, 1.0, every 4": (range(0, 33, 4), 1.0, lambda z: z),
    "tanh 2x, 0.3, every 8": (range(4, 33, 8), 0.3, lambda z: torch.tanh(2 * z)),
    "x^2, 0.2, every 8": (range(4, 33, 8), 0.2, lambda z: z * z),
}


def double_well(args) -> None:
    r"""Errors of the mean, spread, P(x > 0) and W1 of the marginals, over observation draws."""

    well, length = Well(), 33
    markov = assimilation.MarkovCovariance(well.moments(9), length, 9, 5)
    base = {"window": 9, "overlap": 5, "markov": markov}
    solve = {"iterations": args.iterations, "tolerance": args.tolerance, "solver": args.solver}
    schemes = {
        "full, own": {"window": length, "guidance": solve},
        "full, markov": {"window": length, "markov": markov,
                         "guidance": solve | {"covariance": "markov"}},
    }  # fmt: skip
    for rule in ("center", "junction"):
        for name, extra in (
            ("per window", {"scope": "window"}),
            ("markov", {"covariance": "markov"}),
            ("averaged", {"covariance": "averaged"}),
        ):
            schemes[f"{rule} 9/5, {name}"] = base | {"compose": rule, "guidance": solve | extra}

    step = float(well.u[1] - well.u[0])
    print(f"{'case':22s} {'scheme':26s} {'sampler':10s}  mean spread  P(x>0)   W1  s/draw events")
    for corrections in (0, 4):
        label = f"24+{corrections}"
        sampler = {
            "method": "heun", "steps": 24, "corrections": corrections, "sigma_min": 0.02,
            "delta": args.delta,
        }  # fmt: skip
        for case, (frames, sigma, h) in CASES.items():
            for name, scheme in schemes.items():
                chosen = [
                    any(part in text for part in want.split(";"))
                    for want, text in ((args.only, name), (args.sampler, label))
                ]
                if not all(chosen):
                    continue
                rows, events, began = [], 0, time.perf_counter()
                for draw in range(args.first, args.first + args.draws):
                    x = well.truth(length, draw)
                    e = noise.normal((length,), seed=draw, purpose="error", dtype=torch.float64)
                    y = {f: float(h(x[f]) + sigma * e[f]) for f in frames}
                    loglik = torch.zeros(1, length, len(well.u), dtype=torch.float64)
                    for f, value in y.items():
                        loglik[0, f] = -((value - h(well.u)) ** 2) / (2 * sigma**2)
                    p = well.marginals(loglik)[0]
                    mean = p @ well.u
                    std = (p @ well.u**2 - mean**2).sqrt()
                    r = assimilation.sample(
                        well, shape=(1,), length=length, members=range(args.members), seed=draw,
                        likelihood=Seen(y, sigma, h), dtype=torch.float64, batch=args.members,
                        rows=1 << 20, sampler=sampler, **scheme,
                    )  # fmt: skip
                    z = r.x[..., 0]
                    below = (z[:, :, None] <= well.u + step / 2).double().mean(0)
                    positive = (z > 0).double().mean(0) - p @ (well.u > 0).double()
                    rows.append([
                        float(((z.mean(0) - mean) / std).square().mean()),
                        float((z.std(0) / std).mean()),
                        float(positive.abs().mean()),
                        float((below - p.cumsum(1)).abs().sum(1).mean() * step),
                    ])  # fmt: skip
                    events += len(r.diagnostics["events"])
                m, s, P, w = torch.tensor(rows).mean(0).tolist()
                seconds = (time.perf_counter() - began) / args.draws
                print(
                    f"{case:22s} {name:26s} {label:10s} {m**0.5:5.2f} {s:6.3f} {P:7.3f} {w:6.3f} "
                    f"{seconds:6.1f} {events:5d}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--oracle", choices=["chain", "well"], default="chain")
    parser.add_argument("--length", type=int, default=49)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first observation draw")
    parser.add_argument("--iterations", type=int, default=26)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--solver", default="cg")
    parser.add_argument("--only", default="", help="parts of settings' names: a;b")
    parser.add_argument("--sampler", default="", help="parts of samplers' names: a;b")
    parser.add_argument("--delta", type=float, default=0.2)
    args = parser.parse_args()

    if args.oracle == "well":
        return double_well(args)
    chain = Chain(args.length)
    draws = range(args.first, args.first + args.draws)
    solver = {"solver": args.solver, "iterations": args.iterations, "tolerance": args.tolerance}
    print(f"{'setting':34s} {'sampler':10s}  mean  spread  calls /frame   s/draw residual events")
    for name, setting in settings(chain, solver).items():
        for label, sampler in SAMPLERS.items():
            if not any(part in name for part in args.only.split(";")):
                continue
            if not any(part in label for part in args.sampler.split(";")):
                continue
            sampler = sampler | {"delta": args.delta}
            r = measure(chain, draws, args.members, sampler=sampler, **setting)
            print(
                f"{name:34s} {label:10s} {r['mean']:5.2f} {r['spread']:6.3f} {r['calls']:6d} "
                f"{r['per_frame']:6.0f} {r['seconds']:8.1f} {r['residual']:8.1e} {r['events']:5d}",
                flush=True,
            )


if __name__ == "__main__":
    main()
