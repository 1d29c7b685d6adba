r"""Moment matching posterior sampling (Rozet et al. 2024, equation 14).

E[x | x_t, y] ≈ x̂ + C Aᵀ (R + A C Aᵀ)⁻¹ (y − A(x̂)), with C the covariance of x given x_t:
(σ²/α) Jᵀ for the denoiser's Jacobian J (Tweedie), or a surrogate of it. The solve never forms a
matrix; scaled by R's diagonal it does not care about units.

A Jacobian composed of windows is neither symmetric nor positive, and at high noise R + A C Aᵀ can
come close to singular: corrections of any size come out. The solution shows it (see `Solution`);
the call is then made again with the windows' averaged covariance, which is positive.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..divergence import Event
from ..linearised import Linearised
from ..solve import Image, Solution, cg, gmres
from ..solve_direct import direct

if TYPE_CHECKING:
    from .estimate import Guidance, Level

__all__ = ["correct", "isotropic"]

SPARSE = 4  # numbers for each observation from which on solves among those seen are faster
SLACK = 1.05  # what rounding may add to the size of a solution


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

    among = _among(guidance, lin, residual, mean, level)
    solution = _solve(guidance, lin, residual, mean, covariance, config.solver, among)
    figures = guidance.figures
    if guidance.products.spare is not None:
        doubtful = _doubtful(guidance, solution, lin, residual, mean)
        if bool(doubtful.any()):
            figures.products += solution.products
            solution = _again(guidance, call, lin, residual, mean, level, solution, doubtful)
            if guidance.slab.exchange.rank == 0:  # the same on all ranks of the group
                what = "the composed covariance is not positive"
                figures.events += [
                    Event(members[b], (), level.step, level.sigma, what, "averaged covariance")
                    for b in (doubtful & ~solution.failed)[:, 0].nonzero().flatten().tolist()
                ]
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
                "the covariance of observations is not positive along a direction",
                "it was left out" if config.solver == "direct" else "the solve stopped before it",
            )
        )

    return solution.image, solution.failed


def _doubtful(
    guidance: Guidance, solution: Solution, lin: Linearised, residual: Tensor, mean: Image
) -> Tensor:
    r"""Flags ``(B, systems)`` of solves that a positive matrix would not have given."""

    view = guidance.view
    beyond, _ = view.untrusted(mean, solution.image, guidance.config.limit)
    bad = solution.failed | solution.cut | ~(solution.residual <= 1) | beyond.to(residual.device)
    scale = guidance.scale(lin, residual)
    b = residual.double() if scale is None else residual.double() / scale
    large = view.dot(solution.weights, solution.weights) > SLACK**2 * view.dot(b, b)
    # Without R's scale the size of a solution says nothing.
    return bad if scale is None else bad | large


def _again(
    guidance: Guidance, call, lin, residual, mean, level: Level, first: Solution, flags: Tensor
) -> Solution:
    r"""The flagged members' solutions with averaged covariance, the others' as they are."""

    view = guidance.view

    def covariance(v: Image) -> Image:
        return [level.gamma * u for u in view.transposed(call, v, spare=True)]

    second = _solve(guidance, lin, residual, mean, covariance, "cg")
    return Solution(
        view.select(flags, second.image, first.image),
        torch.where(view.spread(flags), second.weights, first.weights),
        torch.where(flags, second.residual, first.residual),
        torch.where(flags, second.failed, first.failed),
        torch.where(flags, second.cut, first.cut),
        second.products,
    )


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


def _solve(guidance, lin, residual, mean, covariance, solver: str, among=None) -> Solution:
    r"""Solves (R + A C Aᵀ) w = y − A(x̂), returning the image C Aᵀ w.

    `among` is C between the numbers that A sees, which is all that the solve needs of it: then C
    itself is applied once, to its end.
    """

    config, view = guidance.config, guidance.view
    scale = guidance.scale(lin, residual)

    def cotangent(p: Tensor) -> tuple[Tensor, Image]:
        u = (p if scale is None else p / scale).to(residual)
        return u, view.put(lin.vjp(u), mean)

    def product(p: Tensor) -> tuple[Tensor, Image]:
        u, v = cotangent(p)
        q = (among or covariance)(v)
        Mu = lin.covariance(u).double() + lin.jvp(view.take(q)).double()
        return (Mu if scale is None else Mu / scale), [] if among else q

    b = residual.double()
    if solver == "direct":

        def noise(p: Tensor) -> Tensor:
            u = (p if scale is None else p / scale).to(residual)
            Ru = lin.covariance(u).double()
            return Ru if scale is None else Ru / scale

        b = b if scale is None else b / scale
        return direct(product, noise, b, view.system, view.systems, view.combine)
    # A product is as good as the network's precision.
    rounding = 16 * torch.finfo(residual.dtype).eps
    method = cg if solver == "cg" else partial(gmres, rounding=rounding)

    solution = method(
        product,
        b if scale is None else b / scale,
        view.dot,
        view.spread,
        view.combine,
        config.iterations,
        config.tolerance,
    )
    if among:
        solution.image = covariance(cotangent(solution.weights)[1])
    return solution


def _among(guidance: Guidance, lin: Linearised, residual: Tensor, mean: Image, level: Level):
    r"""The covariance between the numbers that A sees, if it can be had and they are few."""

    exchange = guidance.slab.exchange
    if guidance.config.covariance != "markov" or not hasattr(guidance.covariance, "among"):
        return None
    if SPARSE * guidance.told > exchange.length * mean[0][0, 0].numel():
        return None
    seen = _seen(guidance, lin, residual, mean)
    return partial(guidance.covariance.among, exchange=exchange, level=level, numbers=seen)


def _seen(guidance: Guidance, lin: Linearised, residual: Tensor, mean: Image) -> list[Tensor]:
    r"""Of each own frame, the numbers that A sees: where Aᵀu of a random u is not zero."""

    if guidance.seen is not None:
        return guidance.seen
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(residual.shape[1], generator=generator).to(residual).expand_as(residual)
    (v,) = guidance.view.put(lin.vjp(u), mean)
    seen = [at.nonzero()[:, 0] for at in (v != 0).any(0).flatten(1).cpu()]
    if getattr(guidance.likelihood, "linear", False):
        guidance.seen = seen  # A is the same wherever it is linearised
    return seen
