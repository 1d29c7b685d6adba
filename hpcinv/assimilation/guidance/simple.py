r"""Guidance without a solve: the baselines DPS and SDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..linearised import Linearised
from ..solve import Image

if TYPE_CHECKING:
    from .estimate import Guidance, Level

__all__ = ["dps", "sda"]


def dps(guidance: Guidance, call, lin: Linearised, residual: Tensor, mean: Image) -> Tensor:
    r"""Diffusion posterior sampling (Chung et al. 2022): −ζ ∇‖y − A(x̂(x_t))‖, added after a step.

    The norm is over all observations of a member's trajectory.
    """

    view = guidance.view
    norm = view.dot(residual.double(), residual.double()).sqrt()
    u = residual.double() / view.spread(norm.clamp(min=1e-300))
    gradient = view.transposed(call, view.put(lin.vjp(u.to(residual)), mean))

    return guidance.config.strength * gradient[0]


def sda(
    guidance: Guidance,
    call,
    lin: Linearised,
    residual: Tensor,
    mean: Image,
    level: Level,
    variance: Tensor,
) -> Image:
    r"""Score-based data assimilation (Rozet & Louppe 2023, equation 15).

    y given x_t is taken as N(A(x̂), diag(R) + Γ σ²/α²).
    """

    view = guidance.view
    gamma = guidance.config.gamma * (level.sigma / level.alpha) ** 2
    u = residual / (variance.to(residual) + gamma)
    gradient = view.transposed(call, view.put(lin.vjp(u), mean))

    return [level.gamma * g for g in gradient]
