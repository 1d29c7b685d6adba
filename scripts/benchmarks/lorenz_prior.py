r"""How near a prior of jobs/lorenz is to the exact denoiser: its own error, apart from guidance.

    hpcinv run jobs/lorenz --preset medium
    python scripts/benchmarks/lorenz_prior.py --runs runs [--prior train63] [--frames 32]

A denoiser's mean E[x | x + σ ε] is the posterior mean of a window whose every number was observed
with deviation σ. On withheld windows its error over σ (root mean square, standardised states) is
told for all frames, those of the middle half, and the last one, which nothing follows.

Of noisy Lorenz-63 the exact mean is known while σ is small: there the posterior is nearly
Gaussian, and its mode, found by Gauss-Newton steps on the whole window (an iterated Kalman
smoother), is its mean. Nothing is exact here for Lorenz-96; but at σ = 1, in the system's own
units, the error is what an analysis can reach that sees all variables of every frame as in
sakov2008: `middle` a reanalysis, `last` a filter, with infinitely many members and no error of
the sampler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpcinv.diffusion.noise import generator
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.simulators import make

LEVELS = (0.02, 0.05, 0.1, 0.28, 1.0, 3.0)
EXACT = 0.3  # largest σ at which the mode is told as the mean


def mode(
    y: Tensor, error: Tensor, mean: Callable[[Tensor], Tensor], deviation: float, steps: int = 12
) -> Tensor:
    r"""The most probable windows of a chain with white noise, given all numbers with noise.

    Arguments:
        y: Observations of all numbers, with shape (B, W, n), in double precision.
        error: Their deviations, with shape (n).
        mean: The mean of the next frame of states (N, n).
        deviation: Of the white noise that is added to it; nothing is known of the first frame.
        steps: Gauss-Newton steps, from the observations themselves.

    Returns:
        An array with shape (B, W, n).
    """
    B, W, n = y.shape
    jacobian = torch.func.vmap(torch.func.jacrev(mean))
    eye, x = torch.eye(W, dtype=y.dtype), y.clone()
    for _ in range(steps):
        J = jacobian(x[:, :-1].flatten(0, 1)).unflatten(0, (B, W - 1))
        # Rows of D take a window to the defects of its steps, over their deviation.
        D = torch.zeros(B, W - 1, n, W, n, dtype=y.dtype)
        i = torch.arange(W - 1)
        D[:, i, :, i + 1] = torch.eye(n, dtype=y.dtype)
        D[:, i, :, i] = -J.transpose(0, 1)
        D = (D / deviation).reshape(B, -1, W * n)
        defect = (x[:, 1:] - mean(x[:, :-1].flatten(0, 1)).unflatten(0, (B, W - 1))) / deviation
        told = torch.kron(eye, torch.diag(error**-2))
        downhill = ((y - x) / error**2).flatten(1) - (D.mT @ defect.reshape(B, -1, 1))[..., 0]
        x = x + torch.linalg.solve(told + D.mT @ D, downhill).reshape(B, W, n)
    return x


def told(x: Tensor, truth: Tensor, sigma: float) -> str:
    r"""Errors over σ: of all frames, the middle half, the last one."""
    e = (x - truth).square().flatten(2).mean((0, 2))
    W = len(e)
    parts = (e.mean(), e[W // 4 : W - W // 4].mean(), e[-1])
    return " ".join(f"{float(p) ** 0.5 / sigma:8.4f}" for p in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--prior", default="train63", help="a training of jobs/lorenz")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--windows", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, W = args.runs / "lorenz", args.frames
    system = "63" if "63" in args.prior else "96"
    store = TrajectoryStore.open(folder / f"simulate{system}" / "store")
    denoiser = load(folder / args.prior)
    training, rng = store.statistics.count[0], generator(0, "denoising")
    starts = [i for i in store.windows(W) if i >= training]
    starts = rng.choice(starts, args.windows, replace=False)
    x = torch.from_numpy(np.stack([store.standardised(i, i + W) for i in starts]))
    one = np.ones((1, *x.shape[2:]), np.float32)
    zero, unit = (store.statistics.restore(k * one, range(1)) for k in (0, 1))
    scale, offset = (torch.from_numpy(np.asarray(v)[0]).double() for v in (unit - zero, zero))
    levels = list(LEVELS)
    if system == "96":
        levels = sorted({*levels, 1 / float(scale.mean())})
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    print(f"{args.prior}, {args.windows} withheld windows of {W} frames: error / σ")
    print("   sigma           all   middle     last")
    for sigma in levels:
        y = x + sigma * noise
        with torch.no_grad():
            found = denoiser(y, denoiser.time(torch.tensor(sigma).log())).mean
        print(f"{sigma:8.4f} prior {told(found, x, sigma)}", flush=True)
        if system == "63" and sigma <= EXACT:
            dynamics = make(store.attributes["simulator"], store.attributes["options"])
            best = mode(
                y.double() * scale + offset, sigma * scale, dynamics.mean, dynamics.deviation
            )
            print(f"         exact {told((best - offset) / scale, x, sigma)}", flush=True)


if __name__ == "__main__":
    main()
