r"""States and parameters of many withheld flows at once: is the posterior of parameters right?

    hpcinv run jobs/kolmogorov-joint/1_simulate.yaml
    hpcinv run jobs/kolmogorov-joint/2_train.yaml
    python scripts/benchmarks/kolmogorov_joint.py --runs runs

Each flow is seen as `jobs/kolmogorov-joint` sees one: u and v at every second point of each axis,
with noise. Printed of u, v and of each parameter, in quantiles of its prior: rms error of the
mean, spread over skill, correlation of mean and truth, how many times narrower the posterior is
than the prior (root mean variances), and how far the ranks of the truth are from uniform
(Kolmogorov's distance, beside its 95% band for so many flows).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstest

from hpcinv import assimilation
from hpcinv.diffusion import noise
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.simulators import make


class ManyFlows:
    r"""y = x + N(0, σ²) at every k-th point of two channels; member m sees flow m // each.

    Arguments:
        y: Standardised states of the flows, with noise, (n, L, C, N, N).
        sigma: Deviations of the noise, standardised, (C, N, N).
        stride: k.
        each: Members of a flow.
        rows: Flows of the members asked for.
    """

    linear = True

    def __init__(self, y, sigma, stride: int, each: int, rows=(0,)) -> None:
        self._all, self._std, self._k, self._each = y, sigma, stride, each
        self._rows = list(rows)

    def for_members(self, ids):
        flows = [m // self._each for m in ids]
        return ManyFlows(self._all, self._std, self._k, self._each, flows)

    def _seen(self, x):
        return x[..., :2, :: self._k, :: self._k]

    def sizes(self, frames):
        return [self._seen(self._std).numel()] * len(frames)

    def y(self, frames):
        y = self._seen(self._all[self._rows][:, list(frames)]).flatten(1)
        return y if len(self._rows) > 1 else y[0]

    def operator(self, x, frames):
        return self._seen(x).flatten(1)

    def variance(self, frames):
        return self._seen(self._std).square().flatten().repeat(len(frames))

    def covariance(self, v, frames):
        return v * self.variance(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--flows", type=int, default=48)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--error", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--corrections", type=int, default=1)
    parser.add_argument("--covariance", choices=("markov", "own"), default="markov")
    parser.add_argument("--iterations", type=int, default=20, help="of CG, at most")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.runs / "kolmogorov-joint"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    dynamics = make(store.attributes["simulator"], store.attributes["options"])
    first, L = int(store.statistics.count[0]), store.segments[0][1] - store.segments[0][0]
    truth = np.stack([store.read(first + k * L, first + k * L + L) for k in range(args.flows)])
    x = np.stack([store.standardised(first + k * L, first + k * L + L) for k in range(args.flows)])
    x, std = torch.from_numpy(x), torch.from_numpy(np.array(store.statistics.std)).float()
    std = std.reshape(-1, *std.shape[-3:])[0].expand(x.shape[2:])
    sigma = args.error / std
    drawn = [
        noise.frames(x.shape[2:], seed=0, purpose="y", member=k, frames=range(L), step=0)
        for k in range(args.flows)
    ]
    began = time.process_time()
    r = assimilation.sample(
        load(folder / "train"), shape=x.shape[2:], length=L, window=L, overlap=0,
        members=range(args.flows * args.members), batch=64, rows=64,
        likelihood=ManyFlows(x + sigma * torch.stack(drawn), sigma, 2, args.members),
        guidance={"method": "mmps", "covariance": args.covariance,
                  "iterations": args.iterations, "tolerance": 0.01},
        sampler={"method": "heun", "steps": args.steps, "corrections": args.corrections,
                 "sigma_max": 40, "sigma_min": 0.02},
    )  # fmt: skip
    seconds = time.process_time() - began
    mean = torch.from_numpy(np.array(store.statistics.mean)).float()
    mean = mean.reshape(-1, *mean.shape[-3:])[0].expand(x.shape[2:])
    z = (r.x.cpu() * std + mean).numpy().astype(np.float64)
    z = z.reshape(args.flows, args.members, *z.shape[1:])
    band = 1.36 / math.sqrt(args.flows)
    print(f"{args.flows} flows, {args.members} members, {seconds:.0f} s; ranks: band {band:.3f}")
    print("              rmse  spread/skill  correlation  narrower  ranks off by")
    fair = math.sqrt((args.members + 1) / args.members)
    low, high = dynamics._bounds
    for c, name in enumerate(dynamics.state.channels):
        t, e = truth[:, :, c], z[:, :, :, c]
        if c >= 2:  # at its point, a mean over frames, in quantiles of the prior
            k, q = c - 2, float(high[c - 2] - low[c - 2])
            t = (t[:, :1, 0, 0] - float(low[k])) / q
            e = (e[..., 0, 0].mean(-1, keepdims=True) - float(low[k])) / q
        error, spread = (e.mean(1) - t), e.std(1, ddof=1)
        rmse, wide = np.sqrt((error**2).mean()), np.sqrt((spread**2).mean())
        line = f"{name:14s} {rmse:.3f} {fair * wide / rmse:9.2f} "
        line += f"{np.corrcoef(e.mean(1).ravel(), t.ravel())[0, 1]:13.2f}"
        if c >= 2:
            below = (e < t[:, None]).sum(1).ravel()
            u = (below + np.random.default_rng(0).uniform(size=len(below))) / (args.members + 1)
            line += f" {1 / math.sqrt(12) / wide:12.2f} {kstest(u, 'uniform').statistic:10.3f}"
        print(line, flush=True)
    print(f"events: {len(r.diagnostics['events'])}")


if __name__ == "__main__":
    main()
