r"""Samples of an amortised posterior, named by observation and place.

Sample j of observation i is a function of (seed, i, j) and the weights: not of the batch, the
rank or the task that drew it. Each flow of the ensemble draws its share of the samples exactly
(up to rounding), spread evenly among them.
"""

from __future__ import annotations

__all__ = ["Draws", "draw"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcinv.diffusion.noise import generator
from hpcinv.models.posterior_flow import PosteriorFlow

ROUNDS = 100  # fresh draws at most for samples outside of the prior


@dataclass
class Draws:
    r"""Samples of B observations.

    Attributes:
        theta: Samples, with shape (B, N, P), in double precision.
        log_density: Of the posterior *restricted to the prior's support*, with shape (B, N); NaN
            where none was asked for.
        outside: Draws that were rejected as outside of it, with shape (B).
        drawn: All draws, with shape (B).
    """

    theta: Tensor
    log_density: Tensor
    outside: Tensor
    drawn: Tensor


def _base(ids: Sequence[int], n: int, features: int, seed: int, step: int) -> Tensor:
    r"""Standard normal numbers of shape (N, B, P), a stream for each observation."""
    found = [
        torch.from_numpy(generator(seed, "posterior", int(i), step).standard_normal((n, features)))
        for i in ids
    ]
    return torch.stack(found, dim=1)


@torch.no_grad()
def _round(
    flow: PosteriorFlow, contexts: list[Tensor], ids: Sequence[int], n: int, seed: int, step: int,
    densities: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""One draw of every sample: (N, B, P) and its log density (N, B)."""
    base = _base(ids, n, len(flow.names), seed, step).to(contexts[0].device)
    theta = base.clone()
    density = torch.full_like(base[..., 0], torch.nan)
    source = members(flow, n)
    for k in range(len(flow.members)):
        mine = source == k
        if mine.any():
            theta[mine], w, known = flow.draw(base[mine], contexts, k)
            if densities:  # every other member is asked for its own
                found = flow.mixture(w, contexts, (k, known))
                density[mine] = found + flow.jacobian(theta[mine])
    return theta, density


def members(flow: PosteriorFlow, n: int) -> Tensor:
    r"""The member that draws each of n samples: a low-discrepancy sequence over the weights."""
    u = (torch.arange(n, dtype=torch.float64) * 0.6180339887498949 + 0.5) % 1.0
    edges = flow.weights.double().cpu().cumsum(0)
    return torch.searchsorted(edges / edges[-1], u, right=True).to(flow.x_mean.device)


@torch.no_grad()
def draw(
    flow: PosteriorFlow,
    x: Tensor,
    *,
    ids: Sequence[int],
    samples: int,
    seed: int,
    inside: Callable[[Tensor], Tensor] | None = None,
    densities: bool = True,
) -> Draws:
    r"""Draws samples, rejecting those outside of the prior.

    Arguments:
        flow: The posterior.
        x: Observations, NaN where missing, with shape :math:`(B, *S)`.
        ids: Global ids of the observations.
        samples: Samples of each, N.
        seed: The seed of the draws.
        inside: Which rows (..., P) the prior supports; by default all.
        densities: Whether samples get their log density. Without, an ensemble of E flows draws
            about E times as many in a second: a sample passes through one of them only.

    Raises:
        RuntimeError: If hardly any draw of an observation falls inside.
    """
    contexts = flow.contexts(x)
    theta, density = _round(flow, contexts, ids, samples, seed, 0, densities)
    B = len(x)
    drawn = torch.full((B,), samples)
    if inside is None:
        return Draws(theta.transpose(0, 1), density.T, torch.zeros(B, dtype=torch.long), drawn)
    good = inside(theta)
    outside = (~good).sum(0).cpu()
    for i in torch.nonzero(~good.all(0)).flatten().tolist():
        kept_theta, kept = [theta[good[:, i], i]], [density[good[:, i], i]]
        have, step = int(good[:, i].sum()), 0
        while have < samples:
            step += 1
            if step > ROUNDS:
                raise RuntimeError(
                    f"of {int(drawn[i])} draws for observation {ids[i]} only {have} lie inside "
                    "the prior"
                )
            own = [c[i : i + 1] for c in contexts]
            more, dense = _round(flow, own, ids[i : i + 1], samples, seed, step, densities)
            fits = inside(more[:, 0])
            kept_theta.append(more[fits, 0])
            kept.append(dense[fits, 0])
            have += int(fits.sum())
            outside[i] += int((~fits).sum())
            drawn[i] += samples
        theta[:, i] = torch.cat(kept_theta)[:samples]
        # Restricted to the prior, the density is larger by what lies outside.
        share = 1 - float(outside[i]) / float(drawn[i])
        density[:, i] = torch.cat(kept)[:samples] - math.log(share)
    return Draws(theta.transpose(0, 1), density.T, outside, drawn)
