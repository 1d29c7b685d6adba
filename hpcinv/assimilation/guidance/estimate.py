r"""One guided call: the composed mean, corrected by the observations of this rank's frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput
from ..config import GuidanceConfig
from ..divergence import Diverged, Event
from ..likelihood import Likelihood
from ..linearised import Linearised, graph_bytes
from ..moments import Moment, frames_of, width
from ..slab import Products, Slab
from ..solve_direct import allowed
from ..views import TermView, TrajectoryView
from . import mmps, simple

__all__ = ["Estimate", "Guidance"]


@dataclass
class Estimate:
    r"""
    Arguments:
        mean: E[x | x_t, y] at own frames, with shape ``(B, own, *state)``.
        shift: What is added to x after a step (DPS), or None.
    """

    mean: Tensor
    shift: Tensor | None = None


@dataclass
class Level:
    r"""A noise level: time, α, σ, and the step it belongs to."""

    t: Tensor
    alpha: float
    sigma: float
    step: int

    @property
    def gamma(self) -> float:
        r"""σ²/α."""
        return self.sigma**2 / self.alpha


@dataclass
class Figures:
    r"""What a run says about its guidance."""

    events: list[Event] = field(default_factory=list)
    residuals: dict[int, float] = field(default_factory=dict)  # step -> largest
    products: int = 0  # matrix products of the solves
    guided: int = 0  # guided calls


class Guidance:
    r"""Guides the denoiser calls of one rank.

    Arguments:
        slab: The composed denoiser.
        config: The settings.
        likelihood: The observations, or None for prior samples.
        observed: All observed moments of the trajectory, in order.
        block: None, or the fixed number of members per operator call.
        reproducible: Sum inner products in the order of frames.
        covariance: A covariance object for `covariance: markov` (see `MarkovCovariance`).
    """

    def __init__(
        self,
        slab: Slab,
        config: GuidanceConfig,
        likelihood: Likelihood | None,
        observed: Sequence[Moment],
        block: int | None = None,
        reproducible: bool = False,
        covariance: object = None,
    ) -> None:
        self.slab, self.config, self.likelihood = slab, config, likelihood
        self.block, self.covariance = block, covariance
        self.seen: list[Tensor] | None = None  # numbers of own frames that a linear A sees
        # Of the whole trajectory, so that all partitions of it choose alike.
        self.told = 0 if likelihood is None else sum(likelihood.sizes(observed))
        self.figures = Figures()
        method = "none" if likelihood is None or not observed else config.method
        if method == "mmps" and config.covariance == "markov" and covariance is None:
            raise BadInput(
                "a Markov covariance needs second moments of windows",
                where="guidance.covariance",
                instead="Give sample(..., markov=MarkovCovariance(...)), or a denoiser with a "
                "Gaussian part (model: {modes: ...}).",
            )
        if method == "sda" and not hasattr(likelihood, "variance"):
            raise BadInput("sda needs the likelihood's variance", where="guidance.method")
        self.method = method
        if method == "mmps" and config.solver == "direct":
            self._few(likelihood, observed)

        if method == "none":
            kind = "none"
        elif config.per_window:
            kind = "terms"
        elif method == "mmps" and config.covariance in ("isotropic", "markov"):
            kind = "none"
        elif method == "mmps" and config.covariance == "averaged":
            kind = "averaged"
        else:
            kind = "own"
        # Own frames see gradients of all terms for DPS, SDA and MMPS: J is needed where A is.
        seen, spare = frozenset(frames_of(observed)), None
        if method == "mmps" and kind == "own" and len(slab.exchange.terms) > 1:
            spare = Products("averaged", slab.exchange, seen)
        self.products = Products(kind, slab.exchange, seen, spare)
        if config.per_window and method != "none":
            self.view = TermView(slab.exchange, self.products.stacks, list(observed))
        else:
            self.view = TrajectoryView(slab.exchange, list(observed), reproducible)
        self._cost: float | None = None

    def _few(self, likelihood: Likelihood, observed: Sequence[Moment]) -> None:
        r"""No window, of this rank or another, sees more than is solved directly: all ranks find
        the same, so that none waits for one that has ended."""
        seen: dict[int, list[tuple[set[int], int]]] = {}
        for m, n in zip(observed, likelihood.sizes(observed), strict=True):
            frames = frames_of([m])
            seen.setdefault(frames[0], []).append((set(frames), n))
        for term in self.slab.exchange.terms:
            own = set(term.frames)
            allowed(sum(n for f in own for need, n in seen.get(f, ()) if need <= own))

    def _linearise(self, likelihood: Likelihood, x: Tensor) -> Linearised:
        if self._cost is None:
            self._cost = 0.0
            if self.view.moments:
                rows = min(len(x), self.block or len(x))
                widest = max(self.view.moments, key=width)
                probe = x[:rows, : width(widest)]
                self._cost = graph_bytes(likelihood, probe, widest) / rows
        lin = Linearised(
            likelihood, x, self.view.moments, self.config.memory, self.block, self._cost
        )
        self.view.sized(lin.sizes)
        return lin

    def __call__(self, x: Tensor, level: Level, members: Sequence[int]) -> Estimate:
        r"""The guided mean at own noisy frames ``x``; a collective of the member group.

        Raises:
            Diverged: If the denoiser's own mean is not finite.
        """

        with torch.no_grad():
            call = self.slab(x, level.t, self.products)
            mean = self.view.mean(call)
            self._healthy(call, level, members)
            if self.method == "none":
                return Estimate(self.view.compose(call, mean))

            likelihood = self.likelihood
            if hasattr(likelihood, "for_members"):
                likelihood = likelihood.for_members(members)
            if hasattr(likelihood, "scattered") and self.method == "mmps":
                likelihood = likelihood.scattered(*self._scatter(level))
            self.figures.guided += 1
            x = self.view.take(mean)
            if hasattr(likelihood, "matched") and self.method == "mmps":
                lin, residual = self._match(likelihood, x, level)
            else:
                lin = self._linearise(likelihood, x)
                residual = likelihood.y(self.view.moments).to(lin.value) - lin.value

            if self.method == "dps":
                step = [simple.dps(self, call, lin, residual, mean)]
                flags, safe = self._instead(step, lin, residual, mean, level, members, None)
                if safe is not None:  # those members are guided by their mean in this call
                    nothing = [torch.zeros_like(step[0])]
                    step = self.view.select(flags, nothing, step)
                    safe = self.view.select(flags, safe, nothing)
                    mean = [m + c for m, c in zip(mean, safe, strict=True)]
                return Estimate(self.view.compose(call, mean), step[0])
            if self.method == "sda":
                variance = likelihood.variance(self.view.moments)
                correction = simple.sda(self, call, lin, residual, mean, level, variance)
                correction = self._trusted(correction, lin, residual, mean, level, members, None)
            else:
                correction, failed = mmps.correct(self, call, lin, residual, mean, level, members)
                correction = self._trusted(correction, lin, residual, mean, level, members, failed)
            guided = [m + c for m, c in zip(mean, correction, strict=True)]

            return Estimate(self.view.compose(call, guided))

    def _match(self, likelihood, x: Tensor, level: Level) -> tuple[Linearised, Tensor]:
        r"""The numbers observed, and departures and errors that are matched to their law."""
        lin = self._linearise(likelihood.numbers, x)
        told = (level.alpha / level.sigma) ** 2
        departure, lin.variance = likelihood.matched(lin.value, told, self.view.moments)
        return lin, departure.to(lin.value)

    def _scatter(self, level: Level) -> tuple[Tensor, Tensor]:
        r"""Variance of each number of x given x_t, and how many vary with it as one: those of the
        Gaussian chain if there is one; or the isotropic variance, which is never too small for a
        state of unit variance, and one."""

        if hasattr(self.covariance, "scatter"):
            return self.covariance.scatter(level.alpha, level.sigma)
        kappa = level.sigma**2 / (level.alpha**2 + level.sigma**2)
        return torch.tensor(kappa), torch.tensor(1.0)

    def scale(self, lin: Linearised, like: Tensor) -> Tensor | None:
        r"""Square roots of the error variances, to scale the solve with, or None."""

        if lin.variance is not None:
            return lin.variance.to(like.device).double().sqrt()
        if not hasattr(self.likelihood, "variance"):
            return None
        return self.likelihood.variance(self.view.moments).to(like.device).double().sqrt()

    def _healthy(self, call, level: Level, members: Sequence[int]) -> None:
        r"""Raises on every rank of the group if any term's mean is not finite."""

        exchange = self.slab.exchange
        found = np.zeros((exchange.size, 3))
        for stack, evaluation in zip(call.products.stacks, call.evaluations, strict=True):
            mean = evaluation.mean
            # One pass: a sum is finite only if all are (or it overflows, which is as bad).
            if not bool(torch.isfinite(mean.sum())):
                ok = torch.isfinite(mean.flatten(3) if mean.ndim > 3 else mean[..., None]).all(-1)
                if not bool(ok.all()):
                    t, b, w = (~ok).nonzero()[0].tolist()
                    found[exchange.rank] = 1, members[b], int(stack.frames[t, w])
        found = exchange.sum(found)
        if found[:, 0].any():
            _, member, frame = found[np.flatnonzero(found[:, 0])[0]]
            raise Diverged(
                "the denoiser's mean is not finite",
                int(member),
                int(frame),
                level.step,
                level.sigma,
            )

    def _trusted(self, correction, lin, residual, mean, level: Level, members, failed):
        r"""Replaces corrections that are not to be trusted, and records it."""

        flags, safe = self._instead(correction, lin, residual, mean, level, members, failed)
        return correction if safe is None else self.view.select(flags, safe, correction)

    def _instead(self, correction, lin, residual, mean, level: Level, members, failed):
        r"""Flags of corrections that are not to be trusted, and what replaces them, if any is."""

        view = self.view
        flags, frames = view.untrusted(mean, correction, self.config.limit)
        if failed is not None:
            flags = flags | failed.cpu()
        if not bool(flags.any()):
            return flags, None
        safe = mmps.isotropic(self, lin, residual, mean, level)
        worse, _ = view.untrusted(mean, safe, self.config.limit)
        nothing = [torch.zeros_like(m) for m in mean]
        safe = view.select(worse, nothing, safe)
        for b, member in enumerate(members):
            # Of a joint solve that failed everywhere, the first rank speaks.
            if bool(flags[b].any()) and (frames[b] or self.slab.exchange.rank == 0):
                used = (
                    "no correction" if bool((flags & worse)[b].any()) else "isotropic covariance"
                )
                self.figures.events.append(
                    Event(
                        member,
                        tuple(sorted(set(frames[b]))),
                        level.step,
                        level.sigma,
                        "the guided correction is not finite, beyond the limit, or its matrix is "
                        "not positive",
                        used,
                    )
                )
        return flags, safe
