r"""Noisy Lorenz-63: is it the prior that errs, or the guidance?

    hpcinv run jobs/lorenz --preset medium
    python scripts/benchmarks/lorenz_guidance.py --runs runs [--prior train63]

Withheld trajectories of 65 frames stand in for draws of their own posterior, so x + σ ε is an
exact sample of what the sampler should see at σ. There a particle smoother that holds the true
model gives both means exactly: E[x | x_t], which a prior learns, and E[x | x_t, y], which
guidance makes of it (y: the first number of every eighth frame, deviation 0.4). Told are root
mean square distances, in units of the standardised state:

`exact`   of the exact means to the truth, without and with y: what there is to reach;
`mmps`    of one step of MMPS from the exact mean and covariance given x_t to the exact guided
          mean: the error of guidance alone;
`prior`   of the prior's mean to the exact one;
`guided`  of its guided mean to the exact one, with three iterations of CG, six of GMRES, and
          the positive part solved whole (`solver: direct`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from lorenz import CASES, FRAMES, Table, smoother

from hpcinv.assimilation import GuidanceConfig, PointLikelihood
from hpcinv.assimilation.composition import compose
from hpcinv.assimilation.exchange import Exchange
from hpcinv.assimilation.guidance import Guidance
from hpcinv.assimilation.guidance.estimate import Level
from hpcinv.assimilation.likelihood import checked
from hpcinv.assimilation.network import Network
from hpcinv.assimilation.slab import Slab
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.simulators import make

LEVELS = (0.3, 0.6, 1.2, 2.4)


def update(x: np.ndarray, table: Table, first: tuple[float, float]) -> np.ndarray:
    r"""The guided mean by the moments of samples: a linear step from their mean.

    Arguments:
        x: Trajectories given x_t, standardised, with shape (M, L, n).
        table: What is observed of the first number.
        first: Its offset and scale.
    """
    mean, (offset, scale) = x.mean(0), first
    seen = (x - mean)[:, table.frame, 0]
    S = seen.T @ seen / (len(x) - 1) + np.diag((table.error / scale) ** 2)
    w = np.linalg.solve(S, (table.value - offset) / scale - mean[table.frame, 0])
    return mean + np.einsum("mlc,m->lc", x - mean, seen @ w) / (len(x) - 1)


def guided(denoiser, x: np.ndarray, sigma: float, likelihood, settings: dict) -> np.ndarray:
    r"""The composed mean of windows (32/16, `center`) of one noisy trajectory."""
    t = denoiser.time(torch.tensor(sigma).log())
    alpha, s = (float(v) for v in denoiser.schedule(t))
    exchange = Exchange(compose("center", FRAMES, 32, 16), FRAMES)
    seen = [] if likelihood is None else checked(likelihood, FRAMES, x.shape[1:])
    slab = Slab(exchange, Network(denoiser))
    call = Guidance(slab, GuidanceConfig(**settings), likelihood, seen)
    x = torch.from_numpy(alpha * x[None]).float()
    return call(x, Level(t, alpha, s, 0), [0]).mean[0].double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--prior", default="train63")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--particles", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=192, help="of the smoother")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.runs / "lorenz"
    store = TrajectoryStore.open(folder / "simulate63" / "store")
    denoiser, stats = load(folder / args.prior), store.statistics
    dynamics = make(store.attributes["simulator"], store.attributes["options"])
    climate = store.read(0, stats.count[0]).astype(np.float64)
    zero, one = (stats.restore(np.full((1, 3), k, np.float32), range(1))[0] for k in (0, 1))
    scale = one - zero
    starts = store.windows(FRAMES)
    starts = starts[starts >= stats.count[0]][:: FRAMES // 2]
    print(f"{args.prior}, {args.draws} draws; exact: without, with y; guided: CG, GMRES, direct")
    for sigma in LEVELS:
        rows = []
        for draw in range(args.draws):
            rng = np.random.default_rng([63, draw])
            start = int(starts[draw * len(starts) // args.draws])
            truth = store.read(start, start + FRAMES).astype(np.float64)
            table = Table(truth, *CASES["lo"], rng)
            seen = table.log_likelihood(FRAMES)
            noisy = truth + sigma * scale * rng.standard_normal(truth.shape)

            def given(y: bool, noisy=noisy, seen=seen, rng=rng, sigma=sigma) -> np.ndarray:
                def of(t):
                    def log_likelihood(x):
                        d = (x - noisy[t]) / (sigma * scale)
                        told = -0.5 * (d * d).sum(1)
                        return told + seen[t](x) if y and seen[t] is not None else told

                    return log_likelihood

                x = smoother(
                    climate[rng.integers(len(climate), size=args.particles)],
                    lambda x: dynamics.mean(torch.from_numpy(x)).numpy(), dynamics.deviation,
                    [of(t) for t in range(FRAMES)], args.samples, rng,
                )  # fmt: skip
                return (x - zero) / scale

            free, x = given(False), (truth - zero) / scale
            best, mean = given(True).mean(0), free.mean(0)
            likelihood = PointLikelihood(table, stats, range(start, start + FRAMES))
            call = denoiser, (noisy - zero) / scale, sigma
            kinds = {"iterations": 3}, {"solver": "gmres", "iterations": 6}, {"solver": "direct"}
            errors = [mean - x, best - x, update(free, table, (zero[0], scale[0])) - best]
            errors.append(guided(*call, None, {}) - mean)
            errors += [guided(*call, likelihood, kind) - best for kind in kinds]
            rows.append(errors)
        a, b, c, d, *e = np.sqrt(np.square(rows).mean((0, 2, 3)))
        told = f"exact {a:.3f} {b:.3f}, mmps {c:.3f}, prior {d:.3f}, guided"
        print(f"σ {sigma:g}: {told} {' '.join(f'{v:.3f}' for v in e)}", flush=True)


if __name__ == "__main__":
    main()
