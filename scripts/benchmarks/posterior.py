r"""How far are our posterior samplers from exact posteriors?

    python scripts/benchmarks/posterior.py chain                 # linear and Gaussian, closed form
    python scripts/benchmarks/posterior.py well --members 512    # double well, by members
    python scripts/benchmarks/posterior.py identity --prior runs/winds/train-diffusion \
        --latents runs/winds/encode

`chain`: the sampler is affine, so its law is propagated exactly (`affine.py`). Printed: rms error
of the mean in posterior standard deviations over observation draws, ratio of standard deviations,
Bures–Wasserstein distance to the exact posterior per number (in posterior deviations), rms error
of correlations at lags 1, 8 and 24, then at lag 1 across the seams of windows and across those of
2 and 4 ranks; denoiser calls, frames evaluated per frame, seconds (one thread, for as many
members as there are unit vectors), largest residual, events.

`well`: not Gaussian, so that MMPS's own error shows. The rows `full` have no composition error;
`exact` draws from the posterior itself: what so many members cannot do better. W1 is the distance
of marginals, averaged over frames. Schemes called `matched` know the law of one number
(`PointwiseLikelihood`).

`identity`: with A = I and R = σ²I the posterior mean is the denoiser's own, d(α y, t) at
σ_t/α_t = σ: a check of any trained prior.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch
from affine import Engine
from oracles import CASES, VARIABLES, Chain, Seen, Well

from hpcinv import assimilation
from hpcinv.assimilation.partition import slab
from hpcinv.assimilation.windows import cover, middles
from hpcinv.diffusion import noise

SAMPLERS = {
    "heun 31": {"method": "heun", "steps": 31},
    "ab 63": {"method": "adams-bashforth", "steps": 63},
    "ab3 63": {"method": "adams-bashforth", "steps": 63, "order": 3},
    "ddpm 128": {"method": "ddpm", "steps": 128},
    "heun 32+4": {"method": "heun", "steps": 32, "corrections": 4},
    "heun 16+4": {"method": "heun", "steps": 16, "corrections": 4},
    "heun 63+8": {"method": "heun", "steps": 63, "corrections": 8},
    "heun 64+8": {"method": "heun", "steps": 64, "corrections": 8},
}
LAGS = (1, 8, 24)


def chosen(name: str, wanted: str) -> bool:
    return any(part in name for part in wanted.split(";"))


def chain_settings(chain: Chain, solver: dict) -> dict[str, dict]:
    L = chain.length
    out = {
        f"full, {name}": {"window": L, "denoiser": chain.denoiser(L), "guidance": guidance}
        for name, guidance in (("own", solver), ("sda", {"method": "sda", "scope": "trajectory"}))
    }
    for W, V in ((9, 5), (17, 9)):
        base = {"window": W, "overlap": V, "denoiser": chain.denoiser(W)}
        markov = assimilation.MarkovCovariance(chain.moments(W), L, W, V)
        for rule in ("center", "junction"):
            name, both = f"{rule} {W}/{V}", base | {"compose_": rule}
            out |= {
                f"{name}, per window": both | {"guidance": solver | {"scope": "window"}},
                f"{name}, sda": both | {"guidance": {"method": "sda", "scope": "trajectory"}},
                f"{name}, own": both | {"guidance": solver | {"scope": "trajectory"}},
                f"{name}, averaged": both | {"guidance": solver | {"covariance": "averaged"}},
                f"{name}, markov": both
                | {"guidance": solver | {"covariance": "markov"}, "markov": markov},
            }
        coarse = assimilation.Coarse(4, (L - 1) // 4 + 1, 1, chain.denoiser((L - 1) // 4 + 1, 4))
        for cov in ("own", "averaged", "markov"):
            out[f"coarse + junction {W}/{V}, {cov}"] = base | {
                "compose_": "junction", "coarse": coarse, "markov": markov,
                "guidance": solver | {"covariance": cov, "scope": "trajectory"},
            }  # fmt: skip
    return out


def correlations(P: torch.Tensor, lag: int) -> torch.Tensor:
    r"""Correlations of each variable with itself ``lag`` frames on: ``(L − lag, VARIABLES)``."""

    s = P.diagonal().clamp(min=1e-30).sqrt()
    return (P / s / s[:, None]).diagonal(lag * VARIABLES).view(-1, VARIABLES)


def compare(chain: Chain, M: torch.Tensor, P: torch.Tensor, ys: torch.Tensor, cuts: dict) -> dict:
    r"""Distances of N(M y, P) from the exact posteriors of draws ``ys (draws, m)``."""

    exact, std = chain.covariance, chain.std
    off = ((M - chain.K) @ ys.T).T / std  # (draws, n)
    A, B = P / std / std[:, None], exact / std / std[:, None]
    values, vectors = torch.linalg.eigh(B)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    if not float(A.diagonal().max()) < 1e6:  # the sampler diverges: distances say nothing
        A = torch.full_like(A, torch.nan)
        cross = torch.tensor(torch.nan)
    else:
        cross = torch.linalg.eigvalsh(root @ A @ root).clamp(min=0).sqrt().sum()
    bures = (A.trace() + B.trace() - 2 * cross).clamp(min=0)
    out = {
        "mean": float(off.square().mean().sqrt()),
        "spread": float((P.diagonal().sqrt() / std).mean()),
        "bures": float(((off.square().sum(1).mean() + bures) / len(std)).sqrt()),
    }
    for lag in LAGS:
        out[f"lag {lag}"] = float(
            (correlations(P, lag) - correlations(exact, lag)).square().mean().sqrt()
        )
    step = (correlations(P, 1) - correlations(exact, 1)).square().mean(1)
    for name, at in cuts.items():
        out[name] = float(step[[c - 1 for c in at]].mean().sqrt()) if at else float("nan")
    return out


def chain_oracle(args) -> None:
    torch.set_default_dtype(torch.float64)
    chain = Chain(args.length)
    ys = torch.stack([chain.observations(d) for d in range(args.first, args.first + args.draws)])
    likelihood = chain.likelihood(ys[0])
    solver = {"solver": args.solver, "iterations": args.iterations, "tolerance": args.tolerance}
    ranks = {n: [slab(args.length, n, k)[0] for k in range(1, n)] for n in (2, 4)}
    print(f"{len(ys)} draws, {args.length} frames, {solver}, delta {args.delta}")
    print(
        f"{'setting':33s} {'sampler':9s}   mean spread   BW    lag 1  lag 8 lag 24  seams ranks2 "
        "ranks4 calls /frame  seconds residual events"
    )
    for name, setting in chain_settings(chain, solver).items():
        if not chosen(name, args.only):
            continue
        engine = Engine(likelihood, shape=(VARIABLES,), length=args.length, **setting)
        windows = cover(args.length, setting["window"], setting.get("overlap", 0))
        seams = [a for a, _ in middles(windows)[1:]]
        for label, sampler in SAMPLERS.items():
            if not chosen(label, args.sampler):
                continue
            M, P, figures = engine.law(sampler | {"delta": args.delta})
            cuts = {"seams": seams, "ranks 2": ranks[2], "ranks 4": ranks[4]}
            r = compare(chain, M, P, ys, cuts) | figures
            print(
                f"{name:33s} {label:9s} {r['mean']:6.3f} {r['spread']:6.3f} {r['bures']:6.3f} "
                f"{r['lag 1']:6.3f} {r['lag 8']:6.3f} {r['lag 24']:6.3f} {r['seams']:6.3f} "
                f"{r['ranks 2']:6.3f} {r['ranks 4']:6.3f} {r['calls']:5d} {r['per_frame']:6.0f} "
                f"{r['seconds']:8.1f} {r['residual']:8.0e} {r['events']:6d}",
                flush=True,
            )


def well_schemes(well: Well, length: int, solve: dict) -> dict[str, dict]:
    markov = assimilation.MarkovCovariance(well.moments(9), length, 9, 5)
    base = {"window": 9, "overlap": 5, "markov": markov}
    schemes = {
        "full, own": {"window": length, "guidance": solve},
        "full, markov": {"window": length, "markov": markov,
                         "guidance": solve | {"covariance": "markov"}},
        "full, matched": {"window": length, "guidance": solve},
        "full, dps": {"window": length, "guidance": {"method": "dps"}},
        "full, sda": {"window": length, "guidance": {"method": "sda"}},
    }  # fmt: skip
    for rule in ("center", "junction"):
        for name, extra in (
            ("per window", {"scope": "window"}),
            ("markov", {"covariance": "markov"}),
            ("averaged", {"covariance": "averaged"}),
            ("matched", {"scope": "window"}),
            ("markov, matched", {"covariance": "markov"}),
        ):
            schemes[f"{rule} 9/5, {name}"] = base | {"compose": rule, "guidance": solve | extra}
    return schemes


def distances(well: Well, p: torch.Tensor, z: torch.Tensor) -> list[float]:
    r"""Of members ``z (M, L)`` from marginals ``p (L, 61)``: mean², spread, P(x > 0), W1."""

    step, u = float(well.u[1] - well.u[0]), well.u
    mean = p @ u
    std = (p @ u**2 - mean**2).sqrt()
    below = (z[:, :, None] <= u + step / 2).double().mean(0)
    positive = (z > 0).double().mean(0) - p @ (u > 0).double()
    return [
        float(((z.mean(0) - mean) / std).square().mean()),
        float((z.std(0) / std).mean()),
        float(positive.abs().mean()),
        float((below - p.cumsum(1)).abs().sum(1).mean() * step),
    ]


def well_oracle(args) -> None:
    well, length, dtype = Well(), 33, torch.float32
    solve = {"iterations": args.iterations, "tolerance": args.tolerance, "solver": args.solver}
    schemes = {"exact": None} | well_schemes(well, length, solve)
    print(f"{args.members} members, {args.draws} draws, Heun, sigma_min 0.02, {solve}")
    print(
        f"{'case':22s} {'scheme':26s} {'sampler':9s}  mean spread P(x>0)    W1 calls s/draw events"
    )
    for label in args.sampler.split(";") if args.sampler else ("24+0", "24+4"):
        steps, corrections = map(int, label.split("+"))
        sampler = {
            "method": "heun", "steps": steps, "corrections": corrections, "sigma_min": 0.02,
            "delta": args.delta,
        }  # fmt: skip
        for case, (frames, sigma, h) in CASES.items():
            for name, scheme in schemes.items():
                if not (chosen(name, args.only) and chosen(case, args.case)):
                    continue
                rows, events, calls, began = [], 0, 0, time.perf_counter()
                for draw in range(args.first, args.first + args.draws):
                    x = well.truth(length, draw)
                    e = noise.normal((length,), seed=draw, purpose="error", dtype=torch.float64)
                    y = {f: float(h(x[f]) + sigma * e[f]) for f in frames}
                    loglik = torch.zeros(1, length, len(well.u), dtype=torch.float64)
                    for f, value in y.items():
                        loglik[0, f] = -((value - h(well.u)) ** 2) / (2 * sigma**2)
                    p = well.marginals(loglik)[0]
                    if scheme is None:
                        rows.append(distances(well, p, well.draw(loglik[0], args.members, draw)))
                        continue
                    seen = Seen(y, sigma, h, dtype)
                    if name.endswith("matched"):
                        seen = well.matched(y, sigma, h, length, dtype)
                    r = assimilation.sample(
                        well, shape=(1,), length=length, members=range(args.members), seed=draw,
                        likelihood=seen, dtype=dtype, batch=args.members,
                        rows=1 << 20, sampler=sampler, **scheme,
                    )  # fmt: skip
                    rows.append(distances(well, p, r.x[..., 0].double()))
                    events += len(r.diagnostics["events"])
                    calls = r.diagnostics["calls"]
                m, s, P, w = torch.tensor(rows).mean(0).tolist()
                seconds = (time.perf_counter() - began) / args.draws
                print(
                    f"{case:22s} {name:26s} {label:9s} {m**0.5:5.3f} {s:6.3f} {P:6.3f} {w:6.4f} "
                    f"{calls:4d} {seconds:6.1f} {events:5d}",
                    flush=True,
                )


class Everything:
    r"""y = x + N(0, σ²), of all entries of all frames."""

    linear = True

    def __init__(self, y: torch.Tensor, sigma: float) -> None:
        self._y, self._sigma, self._n = y, sigma, y[0].numel()

    def sizes(self, frames):
        return [self._n] * len(frames)

    def y(self, frames):
        return self._y[list(frames)].flatten()

    def operator(self, x, frames):
        return x.flatten(1)

    def variance(self, frames):
        return torch.full((self._n * len(frames),), self._sigma**2)

    def covariance(self, v, frames):
        return v * self._sigma**2


def identity_check(args) -> None:
    r"""On latents left out or not, the members' mean against the denoiser's own."""

    from hpcinv.io.store import TrajectoryStore
    from hpcinv.models import load

    denoiser = load(Path(args.prior))
    store = TrajectoryStore.open(Path(args.latents) / "store")
    a, b = store.segments[0]
    L = min(b - a, args.window)
    x = torch.from_numpy(store.standardised(a, a + L))
    c = store.context(range(a, a + L))
    context = torch.from_numpy(c) if getattr(denoiser, "context", 0) and c is not None else None
    told = {} if context is None else {"context": context[None]}
    t = torch.linspace(0, 1, 20001)
    alpha, sigma_t = denoiser.schedule(t)
    ratio = sigma_t / alpha
    print(f"{args.members} members, {L} frames of {tuple(x.shape[1:])}, heun {args.steps}")
    print("sigma  |members' mean - d|  of which sampling  |y - d|  spread  calls seconds events")
    for sigma in (0.1, 0.3, 1.0, 3.0):
        y = x + sigma * noise.frames(
            x.shape[1:], seed=0, purpose="y", member=0, frames=range(L), step=0
        )
        at = int(torch.searchsorted(ratio, sigma))
        with torch.no_grad():
            d = denoiser((alpha[at] * y)[None], t[at], **told).mean[0]
        began = time.perf_counter()
        r = assimilation.sample(
            denoiser, shape=x.shape[1:], length=L, window=L, members=range(args.members),
            likelihood=Everything(y, sigma), context=context, batch=args.members,
            rows=args.members,
            guidance={"iterations": args.iterations, "solver": args.solver},
            sampler={"method": "heun", "steps": args.steps, "corrections": args.corrections},
        )  # fmt: skip
        seconds, rms = time.perf_counter() - began, lambda v: float(v.square().mean().sqrt())
        spread = rms(r.x.std(0))
        print(
            f"{sigma:5.2f} {rms(r.x.mean(0) - d):15.3f} {spread / args.members**0.5:18.3f} "
            f"{rms(y - d):13.3f} {spread:7.3f} {r.diagnostics['calls']:6d} {seconds:7.1f} "
            f"{len(r.diagnostics['events']):6d}",
            flush=True,
        )
        for what, n in Counter(e["what"] for e in r.diagnostics["events"]).most_common():
            print(f"      {n:6d} {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("oracle", choices=["chain", "well", "identity"])
    parser.add_argument("--length", type=int, default=49)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--draws", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first observation draw")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--tolerance", type=float)
    parser.add_argument("--solver", default="cg")
    parser.add_argument("--only", default="", help="parts of settings' names: a;b")
    parser.add_argument("--sampler", default="", help="parts of samplers' names; well: 24+4;...")
    parser.add_argument("--case", default="", help="well: parts of cases' names")
    parser.add_argument("--delta", type=float, default=0.5)
    parser.add_argument("--prior", help="identity: a folder with a trained denoiser")
    parser.add_argument("--latents", help="identity: the run that encoded what it learnt from")
    parser.add_argument("--window", type=int, default=12)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--corrections", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    defaults = {"chain": (32, 60, 1e-9), "well": (3, 4, 1e-4), "identity": (1, 6, 0.0)}
    for name, value in zip(
        ("draws", "iterations", "tolerance"), defaults[args.oracle], strict=True
    ):
        if getattr(args, name) is None:
            setattr(args, name, value)
    {"chain": chain_oracle, "well": well_oracle, "identity": identity_check}[args.oracle](args)


if __name__ == "__main__":
    main()
