r"""What a posterior says of each observation, in a few numbers."""

from __future__ import annotations

__all__ = ["infer"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpcinv.inference.best_fit import best_fit
from hpcinv.inference.mode import mode
from hpcinv.inference.sample import draw
from hpcinv.inference.weights import effective, log_weights
from hpcinv.models.posterior_flow import PosteriorFlow

BEGIN = 8  # samples of the posterior, from the best of which a fit begins


@dataclass
class Wanted:
    r"""What :func:`infer` computes besides samples and their density.

    Attributes:
        samples: Samples N of an observation.
        levels: Of the credible regions.
        map_steps: Steps of the climb to the mode, 0 for the densest sample.
        predictive: Samples that are simulated again.
        densities: Whether samples get their log density, without which there are no modes,
            credible regions or weights.
        weights: Whether samples get importance weights; the simulator must have a likelihood.
        seed: Of the draws.
        fit_steps: Steps of the best fit, 0 for none; the simulator must have a noise model.
    """

    samples: int
    levels: Sequence[float]
    map_steps: int = 60
    predictive: int = 0
    densities: bool = True
    weights: bool = False
    seed: int = 0
    fit_steps: int = 0


def columns(wanted: Wanted, flow: PosteriorFlow) -> dict:
    r"""Shape and type of a row of each column that :func:`infer` fills."""
    N, P, Q, shape = wanted.samples, len(flow.names), len(wanted.levels), flow.shape
    F = sum(m.embedding.features for m in flow.members)
    found = {
        "x": (tuple(shape), "f4"), "ok": ((), "u1"), "truth": ((P,), "f8"),
        "truth_log_density": ((), "f8"), "samples": ((N, P), "f4"), "mean": ((P,), "f8"),
        "std": ((P,), "f8"), "median": ((P,), "f8"), "low": ((Q, P), "f8"),
        "high": ((Q, P), "f8"), "outside": ((), "i8"), "drawn": ((), "i8"),
        "features": ((F,), "f4"),
    }  # fmt: skip
    if wanted.densities:
        found |= {
            "log_density": ((N,), "f4"), "densest": ((Q,), "f8"), "mode": ((P,), "f8"),
            "mode_log_density": ((), "f8"),
        }  # fmt: skip
    if wanted.weights:
        found |= {"log_weight": ((N,), "f4"), "effective": ((), "f8")}
    if wanted.fit_steps:
        found |= {"misfit": ((), "f8"), "best_fit": ((P,), "f8")}
    if wanted.predictive:
        found |= {"predictive": ((wanted.predictive, *shape), "f4")}
    return found


def infer(
    flow: PosteriorFlow, observed: dict[str, np.ndarray], ids: Sequence[int], wanted: Wanted,
    simulator: Any, prior: Any, runner: Any = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    r"""Everything of some observations, as columns.

    Arguments:
        flow: The posterior.
        observed: `x` (B, *S), `truth` (B, P) or None, and `ok` (B).
        ids: Global ids of the observations.
        wanted: What to compute.
        simulator: For the likelihood and the noise.
        prior: The prior that samples must lie in.
        runner: Simulates predictions and fits, where they are wanted.
    """
    B, N = len(ids), wanted.samples
    device = flow.x_mean.device
    out = {
        name: np.full((B, *shape), np.nan if np.dtype(kind).kind == "f" else 0, kind)
        for name, (shape, kind) in columns(wanted, flow).items()
    }
    out["x"][:], out["ok"][:] = observed["x"], observed["ok"]
    good = np.flatnonzero(observed["ok"])
    if observed["truth"] is not None:
        out["truth"][:] = observed["truth"]
    if not len(good):
        return out
    x = torch.from_numpy(np.ascontiguousarray(observed["x"][good])).to(device)
    mine = [ids[i] for i in good]
    with torch.no_grad():
        out["features"][good] = flow.features(x).cpu()
    d = draw(
        flow, x, ids=mine, samples=N, seed=wanted.seed, inside=prior.inside,
        densities=wanted.densities,
    )  # fmt: skip
    theta = d.theta
    out["samples"][good] = theta.cpu()
    out["outside"][good], out["drawn"][good] = d.outside, d.drawn
    out["mean"][good], out["std"][good] = theta.mean(1).cpu(), theta.std(1).cpu()
    out["median"][good] = theta.median(1).values.cpu()
    levels = torch.tensor(list(wanted.levels), dtype=torch.float64, device=device)
    ends = theta.quantile(torch.cat([(1 - levels) / 2, (1 + levels) / 2]), dim=1)
    Q = len(levels)
    out["low"][good] = ends[:Q].transpose(0, 1).cpu()
    out["high"][good] = ends[Q:].transpose(0, 1).cpu()
    if wanted.densities:
        out["log_density"][good] = d.log_density.cpu()
        out["densest"][good] = d.log_density.quantile(1 - levels, dim=1).T.cpu()
        best, height = mode(flow, x, theta, d.log_density, wanted.map_steps)
        out["mode"][good], out["mode_log_density"][good] = best.cpu(), height.cpu()
    if observed["truth"] is not None:
        truth = torch.from_numpy(np.float64(observed["truth"][good])).to(device)
        share = (d.drawn - d.outside).double() / d.drawn
        with torch.no_grad():
            density = flow.log_prob(truth, x).cpu() - share.log()
        out["truth_log_density"][good] = density
    if wanted.weights:
        w = log_weights(simulator, theta, d.log_density, x)
        out["log_weight"][good], out["effective"][good] = w.cpu(), effective(w).cpu()
    if wanted.fit_steps:
        out["misfit"][good], out["best_fit"][good] = best_fit(
            theta[:, :BEGIN].cpu().numpy(), observed["x"][good], ids=mine, simulator=simulator,
            prior=prior, runner=runner, steps=wanted.fit_steps, seed=wanted.seed,
        )  # fmt: skip
    if wanted.predictive:
        out["predictive"][good] = _predictions(
            theta[:, : wanted.predictive].cpu().numpy(), mine, wanted, simulator, runner
        )
    return out


def _predictions(
    theta: np.ndarray, ids: Sequence[int], wanted: Wanted, simulator: Any, runner: Any
) -> np.ndarray:
    r"""Simulated observations of samples (B, M, P), noise included: (B, M, *S)."""
    from hpcinv.simulators.base import Key

    B, M, _ = theta.shape
    named = np.asarray(ids, np.int64)[:, None] * M + np.arange(M)
    key = Key(wanted.seed, named.ravel(), 1)
    x = runner.run(theta.reshape(B * M, -1).astype(np.float32), key).x
    if hasattr(simulator, "noise"):
        x = simulator.noise(torch.from_numpy(x), key).numpy()
    return x.reshape(B, M, *x.shape[1:])
