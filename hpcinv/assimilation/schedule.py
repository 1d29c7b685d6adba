r"""Noise levels of a run, in the schedule of whatever denoiser it is given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import BadInput
from .config import SamplerConfig
from .guidance.estimate import Level

__all__ = ["levels"]


def _ratio(schedule: Callable, t: Tensor) -> Tensor:
    alpha, sigma = schedule(t.double())
    return (sigma / alpha).double()


def levels(schedule: Callable, config: SamplerConfig, dtype: torch.dtype) -> list[Level]:
    r"""The N + 1 levels of a run of N steps, from the noisiest.

    Times are rounded to the precision the denoiser sees, and α and σ computed from those.

    Raises:
        BadInput: If a noise level is outside the schedule's range.
    """

    low, high = (float(_ratio(schedule, torch.tensor(t))) for t in (0.0, 1.0))
    first = high if config.sigma_max is None else config.sigma_max
    last = low if config.sigma_min is None else config.sigma_min
    slack = 1e-9
    for name, value in (("sigma_max", first), ("sigma_min", last)):
        if not low * (1 - slack) <= value <= high * (1 + slack):
            raise BadInput(
                f"{value:g} is outside the denoiser's schedule",
                where=f"sampler.{name}",
                instead=f"Use {low:g} to {high:g}.",
            )
    if not 0 < last < first:
        raise BadInput(
            f"noise levels from {first:g} to {last:g}",
            where="sampler.sigma_min",
            instead="Use a positive sigma_min below sigma_max.",
        )

    u = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
    if config.spacing == "time":
        time = 1 - u
    else:
        if config.spacing == "log":
            s = torch.exp((1 - u) * torch.tensor(first).log() + u * torch.tensor(last).log())
        else:
            a, b = first ** (1 / config.rho), last ** (1 / config.rho)
            s = (a + u * (b - a)) ** config.rho
        time = _invert(schedule, s.clamp(low, high))

    time = time.to(dtype)
    alpha, sigma = schedule(time.double())

    return [
        Level(t, float(a), float(s), i)
        for i, (t, a, s) in enumerate(zip(time, alpha, sigma, strict=True))
    ]


def _invert(schedule: Callable, s: Tensor) -> Tensor:
    r"""Times at which σ/α equals s, by bisection: σ/α increases with t."""

    a, b = torch.zeros_like(s), torch.ones_like(s)
    for _ in range(64):
        m = (a + b) / 2
        above = _ratio(schedule, m) > s
        a, b = torch.where(above, a, m), torch.where(above, m, b)

    return (a + b) / 2
