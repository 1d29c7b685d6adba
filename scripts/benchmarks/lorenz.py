r"""Noisy Lorenz-63: the sampler of windows against a particle smoother.

    hpcinv run jobs/lorenz --preset medium
    python scripts/benchmarks/lorenz.py --runs runs [--draws 32] [--figure jobs/lorenz/quality.png]

Each draw is a withheld trajectory of 65 frames and its observations: the first number, every
eighth frame with deviation 0.4 (`lo`) or every frame with deviation 2.0 (`hi`), the two cases of
Rozet & Louppe (2023). The truth about the posterior is a bootstrap filter followed by backward
simulation (Godsill, Doucet & West 2004). The distance D of two sets of trajectories is their
Wasserstein-1 distance (optimal assignment, Euclidean distance of whole trajectories), and

    (D(model, smoother) - D(smoother, smoother')) / D(prior, smoother)

is told: 0 where the model cannot be told from the smoother, 1 where it has learnt nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from hpcinv.assimilation import PointLikelihood, sample
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.simulators import make

FRAMES = 65
CASES = {"lo": (8, 0.4), "hi": (1, 2.0)}  # every, sigma
SOLVERS = {"lo": "direct", "hi": "cg"}  # a window of 32 frames sees 4 or 5 numbers, or 32
MAIN = {"window": 32, "overlap": 16, "compose": "center", "corrections": 1}
PLAIN = {**MAIN, "corrections": 0}
SETTINGS = [
    MAIN,
    *({**PLAIN, "window": w, "overlap": w // 2} for w in (8, 16, 32, 65)),
    *({**PLAIN, "overlap": v} for v in (4, 24)),
    *({**PLAIN, "window": w, "overlap": w // 2, "compose": "junction"} for w in (16, 32)),
    *({**MAIN, "window": w, "overlap": w // 2} for w in (8, 16)),
    {**MAIN, "corrections": 2},
]


def smoother(
    first: np.ndarray,
    mean: Callable[[np.ndarray], np.ndarray],
    deviation: float,
    log_likelihood: list[Callable[[np.ndarray], np.ndarray] | None],
    members: int,
    rng: np.random.Generator,
) -> np.ndarray:
    r"""Trajectories given all observations: a bootstrap filter, then backward simulation.

    Arguments:
        first: Draws of frame 0, with shape (N, n).
        mean: The mean of the next frame of states (N, n).
        deviation: Of the white noise that is added to it.
        log_likelihood: Of each frame, a function of states (N, n), or None where nothing is seen.
        members: Trajectories M wanted.

    Returns:
        An array with shape (M, L, n).
    """
    N, L = len(first), len(log_likelihood)
    x, particles, weights = first, [], []
    for t in range(L):
        if t:
            x = mean(x)
            x = x + deviation * rng.standard_normal(x.shape)
        w = np.zeros(N) if log_likelihood[t] is None else log_likelihood[t](x)
        w = np.exp(w - w.max())
        w /= w.sum()
        particles.append(x)
        weights.append(w)
        if log_likelihood[t] is not None:  # systematic resampling
            x = x[np.searchsorted(np.cumsum(w), (rng.random() + np.arange(N)) / N).clip(0, N - 1)]
    out = np.empty((members, L, first.shape[1]))
    out[:, -1] = particles[-1][rng.choice(N, members, p=weights[-1])]
    for t in range(L - 2, -1, -1):
        # p(x_t | x_{t+1}, y) over the particles of t, drawn by Gumbel's trick.
        with np.errstate(divide="ignore"):
            score = np.log(weights[t])
        d2 = cdist(out[:, t + 1], mean(particles[t]), "sqeuclidean")
        score = score - d2 / (2 * deviation**2) + rng.gumbel(size=(members, N))
        out[:, t] = particles[t][score.argmax(1)]
    return out


def w1(a: np.ndarray, b: np.ndarray) -> float:
    r"""Wasserstein-1 distance of two sets of as many trajectories, (M, L, n)."""
    d = cdist(a.reshape(len(a), -1), b.reshape(len(b), -1))
    return float(d[linear_sum_assignment(d)].mean())


class Table:
    r"""Observations of the first number."""

    def __init__(self, truth: np.ndarray, every: int, sigma: float, rng) -> None:
        self.frame = np.arange(0, len(truth), every)
        n = len(self.frame)
        self.value = truth[self.frame, 0] + sigma * rng.standard_normal(n)
        self.error = np.full(n, sigma)
        self.channel = self.point = np.zeros(n, int)

    def log_likelihood(self, length: int):
        seen = dict(zip(self.frame, zip(self.value, self.error, strict=True), strict=True))

        def of(y, s):
            return lambda x: -0.5 * ((x[:, 0] - y) / s) ** 2

        return [of(*seen[t]) if t in seen else None for t in range(length)]


class Problem:
    r"""A draw: withheld truth, observations, two runs of the smoother, the prior.

    Arguments:
        store: Of the study's job simulate63.
        case: `lo` or `hi`.
        draw: Its number.
        members: Trajectories of each set.
        particles: Of the smoother.
    """

    def __init__(self, store, case: str, draw: int, members: int, particles: int) -> None:
        every, sigma = CASES[case]
        rng = np.random.default_rng([63, draw])
        training = store.statistics.count[0]
        of, starts = training // 1024, store.windows(FRAMES)
        withheld = starts[(starts >= training) & (starts % FRAMES == 0)]
        n = len(withheld)  # draws from 32 on: the windows after those of the first 32
        self.start = int(withheld[(draw % 32 * n // 32 + draw // 32) % n])
        truth = store.read(self.start, self.start + FRAMES).astype(np.float64)
        self.table = Table(truth, every, sigma, rng)
        dynamics = make(store.attributes["simulator"], store.attributes["options"])
        mean = lambda x: dynamics.mean(torch.from_numpy(x)).numpy()  # noqa: E731
        climate = store.read(0, training).astype(np.float64)

        def run() -> np.ndarray:
            first = climate[rng.integers(training, size=particles)]
            seen = self.table.log_likelihood(FRAMES)
            return smoother(first, mean, dynamics.deviation, seen, members, rng)

        self.truth, self.smoothed, self.again = truth, run(), run()
        begin = rng.choice(starts[starts < (of - 1) * 1024], members)
        self.prior = np.stack([store.read(b, b + FRAMES) for b in begin]).astype(np.float64)
        self.store, self.members = store, members

    def model(
        self, denoiser, draw: int, settings: dict, steps: int = 24, method: str = "heun",
        solver: str = "cg",
    ) -> np.ndarray:  # fmt: skip
        stats, frames = self.store.statistics, range(self.start, self.start + FRAMES)
        s = dict(settings)
        sampler = {"method": method, "steps": steps, "sigma_max": 8.0,
                   "corrections": s.pop("corrections")}  # fmt: skip
        if method == "adams-bashforth":
            sampler["order"] = 3
        x = sample(
            denoiser, shape=(3,), length=FRAMES, members=range(self.members), seed=draw,
            likelihood=PointLikelihood(self.table, stats, frames), sampler=sampler,
            guidance={"method": "mmps", "solver": solver, "iterations": 3}, batch=self.members,
            rows=4096, **s,
        ).x  # fmt: skip
        return stats.restore(x.numpy(), frames).astype(np.float64)

    def relative(self, x: np.ndarray) -> float:
        floor = w1(self.smoothed, self.again)
        return (w1(x, self.smoothed) - floor) / w1(self.prior, self.smoothed)


def spread_ratio(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(x.var(0, ddof=1).mean() / y.var(0, ddof=1).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--draws", type=int, default=32, help="of the main setting")
    parser.add_argument("--first", type=int, default=0, help="32: draws to choose settings by")
    parser.add_argument("--others", type=int, default=4, help="draws of the other settings")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--method", choices=["heun", "adams-bashforth"], default="heun")
    parser.add_argument("--solver", choices=["cg", "gmres", "direct"], help=f"default: {SOLVERS}")
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--particles", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="JSON of all numbers; kept numbers are not redone"
    )
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.runs / "lorenz"
    store = TrajectoryStore.open(folder / "simulate63" / "store")
    denoiser = load(folder / "train63")
    found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for draw in range(args.first, args.first + args.draws):
        for case in args.cases:
            todo = [s for k, s in enumerate(SETTINGS) if k == 0 or draw < args.first + args.others]
            todo = [s for s in todo if f"{case} {draw} {name(s)}" not in found]
            if not todo:
                continue
            p = Problem(store, case, draw, args.members, args.particles)
            for s in todo:
                solver = args.solver or SOLVERS[case]
                x = p.model(denoiser, draw, s, method=args.method, solver=solver)
                found[f"{case} {draw} {name(s)}"] = [p.relative(x), spread_ratio(x, p.smoothed)]
                if args.out:
                    args.out.write_text(json.dumps(found, indent=1))
    table = {}
    for case in args.cases:
        print(f"\n{case}: relative divergence, mean (standard error) / ratio of spreads, draws")
        for s in SETTINGS:
            rows = [
                v for k, v in found.items() if k.split()[::2][0] == case and k.endswith(name(s))
            ]
            if not rows:
                continue
            a = np.array(rows)
            error = a[:, 0].std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else np.nan
            table[case, name(s)] = (a[:, 0].mean(), error)
            told = f"{a[:, 0].mean():7.3f} ({error:.3f}) / {a[:, 1].mean():.2f}  {len(a)}"
            print(f"{name(s):26s} {told}")
    if args.figure:
        figure(table, args.figure)


def name(s: dict) -> str:
    return f"{s['compose']}-{s['window']}/{s['overlap']}-c{s['corrections']}"


def figure(table: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    fig = Figure(figsize=(5 * len({c for c, _ in table}), 4), dpi=110)
    cases = sorted({case for case, _ in table}, key=list(CASES).index)
    for k, case in enumerate(cases):
        ax = fig.add_subplot(1, len(cases), k + 1)
        known = [s for s in SETTINGS if (case, name(s)) in table]
        half = [s for s in known if s["overlap"] == s["window"] // 2]
        curves = {
            "center": [s for s in half if s["compose"] == "center" and not s["corrections"]],
            "center, 1 correction": [s for s in half if s["corrections"] == 1],
            "center, 2 corrections": [s for s in half if s["corrections"] == 2],
            "junction": [s for s in half if s["compose"] == "junction"],
        }
        for label, of in ((label, of) for label, of in curves.items() if of):
            of = sorted(of, key=lambda s: s["window"])
            y, e = np.array([table[case, name(s)] for s in of]).T
            ax.errorbar([s["window"] for s in of], y, e, marker="o", ms=4, capsize=2, label=label)
        others = [s for s in known if s["window"] == 32 and s["overlap"] != 16]
        y = [table[case, name(s)][0] for s in others]
        ax.plot([32] * len(others), y, "k+", ms=8, label="32 frames, overlap 4 and 24")
        ax.axhline(0.05, color="#8a9099", lw=0.8, ls="--")
        ax.set_xscale("log", base=2)
        ax.set_xticks([8, 16, 32, 64], ["8", "16", "32", "64"])
        ax.set_xlabel("window, frames")
        ax.set_title(f"every {CASES[case][0]}. frame, σ = {CASES[case][1]}", fontsize=10)
        ax.set_ylabel("relative divergence" if k == 0 else "")
        ax.legend(fontsize=8, frameon=False)
    fig.tight_layout()
    fig.savefig(path)


if __name__ == "__main__":
    main()
