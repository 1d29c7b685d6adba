r"""The most probable parameters (MAP), found from the best of the samples."""

from __future__ import annotations

__all__ = ["mode"]

import torch
from torch import Tensor

from hpcinv.models.posterior_flow import PosteriorFlow


def mode(
    flow: PosteriorFlow, x: Tensor, theta: Tensor, log_density: Tensor, steps: int = 60,
    rate: float = 0.05,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    r"""Climbs the log density per unit of the parameters, from the densest sample.

    Arguments:
        flow: The posterior.
        x: Observations, with shape :math:`(B, *S)`.
        theta: Samples, with shape :math:`(B, N, P)`.
        log_density: Of the samples, with shape :math:`(B, N)`.
        steps: Steps of Adam, in standardised parameters.
        rate: Size of the first steps.

    Returns:
        The mode, with shape (B, P), and its log density, (B): never below that of any sample.
    """
    top = log_density.argmax(1)
    row = torch.arange(len(x))
    best, height = theta[row, top], log_density[row, top]
    with torch.no_grad():
        contexts = flow.contexts(x)
        w = flow.standardised(best)[0]
    w = w.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        here = flow.restored(w)
        value = flow.mixture(w[None], contexts)[0] + flow.jacobian(here)
        with torch.no_grad():
            better = torch.isfinite(value) & (value > height)
            best = torch.where(better[:, None], here.detach(), best)
            height = torch.where(better, value.detach(), height)
        optimiser.zero_grad()
        (-torch.where(torch.isfinite(value), value, 0.0).sum()).backward()
        optimiser.step()
    return best, height
