r"""Moment matching posterior sampling (Rozet et al. 2024, equation 14).

E[x | x_t, y] ≈ x̂ + C Aᵀ (R + A C Aᵀ)⁻¹ (y − A(x̂)), with C the covariance of x given x_t:
(σ²/α) Jᵀ for the denoiser's Jacobian J (Tweedie), or a surrogate of it. The solve never forms a
matrix; scaled by R's diagonal it does not care about units.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..divergence import Event
from ..linearised import Linearised
from ..solve import Image, cg, gmres

if TYPE_CHECKING:
    from .estimate import Guidance, Level

__all__ = ["correct", "isotropic"]


def correct(
    guidance: Guidance, call, lin: Linearised, residual: Tensor, mean: Image, level: Level, members
) -> tuple[Image, Tensor]:
    r"""The correction of the mean, and flags ``(B, systems)`` of solves that failed."""

    config, view = guidance.config, guidance.view

    if config.covariance == "isotropic":
        covariance = _isotropic(level)
    elif config.covariance == "markov":
        covariance = partial(guidance.covariance, exchange=guidance.slab.exchange, level=level)
    else:

        def covariance(v: Image) -> Image:
            return [level.gamma * u for u in view.transposed(call, v)]

    solution = _solve(guidance, lin, residual, mean, covariance, config.solver)
    figures = guidance.figures
    figures.products += solution.products
    if solution.residual.numel():
        worst = float(solution.residual.max())
        figures.residuals[level.step] = max(figures.residuals.get(level.step, 0.0), worst)
    for b in solution.cut.any(1).nonzero().flatten().tolist():
        if not config.per_window and guidance.slab.exchange.rank:
            break  # the same on all ranks of the group: the first speaks
        figures.events.append(
            Event(
                members[b],
                (),
                level.step,
                level.sigma,
                "the covariance of observations is not positive along a search direction",
                "the solve stopped before it",
            )
        )

    return solution.image, solution.failed


def _isotropic(level: Level):
    r"""Covariance of x given x_t if x were white with unit variance: σ²/(α² + σ²) I."""

    kappa = level.sigma**2 / (level.alpha**2 + level.sigma**2)
    return lambda v: [kappa * u for u in v]


def isotropic(
    guidance: Guidance, lin: Linearised, residual: Tensor, mean: Image, level: Level
) -> Image:
    r"""The correction with an isotropic covariance: positive whatever the network does."""

    solution = _solve(guidance, lin, residual, mean, _isotropic(level), "cg")
    return guidance.view.select(
        solution.failed.cpu(), [torch.zeros_like(m) for m in mean], solution.image
    )


def _solve(guidance, lin, residual, mean, covariance, solver: str):
    r"""Solves (R + A C Aᵀ) w = y − A(x̂), returning the image C Aᵀ w."""

    config, view = guidance.config, guidance.view
    scale = guidance.scale(view.frames, residual)

    def product(p: Tensor) -> tuple[Tensor, Image]:
        u = (p if scale is None else p / scale).to(residual)
        q = covariance(view.put(lin.vjp(u), mean))
        Mu = lin.covariance(u).double() + lin.jvp(view.take(q)).double()
        return (Mu if scale is None else Mu / scale), q

    b = residual.double()
    method = cg if solver == "cg" else gmres

    return method(
        product,
        b if scale is None else b / scale,
        view.dot,
        view.spread,
        view.combine,
        config.iterations,
        config.tolerance,
    )
