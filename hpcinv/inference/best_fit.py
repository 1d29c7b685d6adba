r"""How near the simulator can come to an observation: least squares from a posterior sample.

What a posterior foretells of x may be much wider than the noise, because the network learnt too
little, and then hides what no parameters explain. The best fit does not: it is the minimum of

.. math:: |r(z)|^2 + |z|^2, \qquad r = (x - m(z)) / s(z),

where z are normal scores of the parameters in their prior (their own prior is standard normal),
m and s the mean and deviation of what the instrument would show of `simulate(theta)`. It is
sought by Levenberg's and Marquardt's method with differences for derivatives, so that any
simulator that has a noise model will do. The observation's *misfit* is :math:`|r|^2` there.
"""

from __future__ import annotations

__all__ = ["best_fit"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hpcinv.simulators.base import Key

NOISE = 32  # draws that tell mean and deviation of the noise
DIFFERENCE = 0.02  # of normal scores
FARTHEST = 4.0  # a normal score
DAMPING = np.array([0.1, 1.0, 10.0])  # tried at once, times what helped last


def best_fit(
    theta: np.ndarray, x: np.ndarray, *, ids: Sequence[int], simulator: Any, prior: Any,
    runner: Any, steps: int, seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    r"""Fits each observation.

    Arguments:
        theta: Parameters to begin from, the best of which is taken, with shape (B, M, P).
        x: Observations, NaN where missing, with shape (B, *S).
        ids: Their global ids, which name the random numbers.
        simulator: One with `noise`.
        prior: Its prior.
        runner: Runs it; see :class:`hpcinv.simulators.running.Runner`.
        steps: Of the method; each costs P + 3 simulations of an observation.
        seed: Of the simulator's and the noise's random numbers.

    Returns:
        The misfit, (B), infinite where nothing could be simulated, and the parameters (B, P).
    """
    B, _, P = theta.shape
    seen = x.reshape(B, 1, -1).astype(np.float64)
    ids = np.asarray(ids, np.int64)

    def parameters(z: np.ndarray) -> np.ndarray:
        u = torch.special.ndtr(torch.from_numpy(z))
        return prior.from_quantile(u).numpy()

    def residuals(z: np.ndarray) -> np.ndarray:
        r"""Of parameters (B, R, P): (B, R, C). An observation's random numbers are all the same,
        whatever the parameters: differences are of the parameters alone."""
        R = z.shape[1]
        key = Key(seed, np.repeat(ids, R), 2)
        clean = runner.run(parameters(z).reshape(B * R, P).astype(np.float32), key).x
        clean = torch.from_numpy(clean)
        shown = [simulator.noise(clean, key.again(3 + k)).double() for k in range(NOISE)]
        m, s = (f(0).reshape(B, R, -1).numpy() for f in (
            torch.stack(shown).mean, torch.stack(shown).std))  # fmt: skip
        s = np.maximum(s, 1e-9 * np.abs(m) + 1e-300)
        return np.where(np.isnan(seen), 0.0, (seen - m) / s)

    def cost(r: np.ndarray, z: np.ndarray) -> np.ndarray:
        c = (r**2).sum(-1) + (z**2).sum(-1)
        return np.where(np.isfinite(c), c, np.inf)

    at = np.arange(B)
    u = prior.quantile(torch.from_numpy(np.float64(theta))).clamp(1e-6, 1 - 1e-6)
    z = np.clip(torch.special.ndtri(u).numpy(), -FARTHEST, FARTHEST)
    r = residuals(z)
    first = cost(r, z).argmin(1)
    z, r = z[at, first], r[at, first]
    lowest, damping = cost(r, z), np.ones(B)
    for _ in range(steps):
        # Towards the middle of the prior, so that no difference leaves it.
        h = np.where(z > 0, -DIFFERENCE, DIFFERENCE)
        moved = z[:, None] + h[:, None] * np.eye(P)
        J = np.nan_to_num((residuals(moved) - r[:, None]) / h[..., None], posinf=0, neginf=0)
        curve = J @ J.swapaxes(1, 2) + np.eye(P)
        slope = (J @ np.nan_to_num(r)[..., None])[..., 0] + z
        damp = damping[:, None] * DAMPING  # (B, D)
        width = np.einsum("bpp->bp", curve)
        matrices = curve[:, None] + damp[..., None, None] * width[:, None, :, None] * np.eye(P)
        tried = z[:, None] - np.linalg.solve(matrices, slope[:, None, :, None])[..., 0]
        tried = np.clip(tried, -FARTHEST, FARTHEST)
        rs = residuals(tried)
        costs = cost(rs, tried)
        best = costs.argmin(1)
        better = costs[at, best] < lowest
        z = np.where(better[:, None], tried[at, best], z)
        r = np.where(better[:, None], rs[at, best], r)
        lowest = np.where(better, costs[at, best], lowest)
        damping = np.clip(np.where(better, damp[at, best], 30 * damping), 1e-6, 1e6)
    misfit = (r**2).sum(-1)
    return np.where(np.isfinite(misfit), misfit, np.inf), parameters(z)
