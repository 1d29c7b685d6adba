r"""Steps of the reverse diffusion, from one noise level to the next.

A sampler sees own frames only: `denoise(x, level)` hides windows, observations and ranks. Its
state between two steps is x and a list of remembered means, which is what a checkpoint keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .config import SamplerConfig
from .guidance.estimate import Estimate, Level

__all__ = ["Sampler"]

Denoise = Callable[[Tensor, Level], Estimate]
Noise = Callable[[str], Tensor]


class Sampler:
    r"""
    Arguments:
        config: The settings.
        levels: The noise levels.
    """

    def __init__(self, config: SamplerConfig, levels: list[Level]) -> None:
        self.config, self.levels = config, levels

    @property
    def memory(self) -> int:
        r"""Most means remembered between steps."""
        return self.config.order - 1 if self.config.method == "adams-bashforth" else 0

    def start(self, noise: Noise) -> Tensor:
        r"""x at the first level, for states of unit variance: N(0, α² + σ²)."""

        level = self.levels[0]
        return math.hypot(level.alpha, level.sigma) * noise("start")

    def step(
        self, i: int, x: Tensor, past: list[Tensor], denoise: Denoise, noise: Noise
    ) -> tuple[Tensor, list[Tensor]]:
        r"""From level i to level i + 1.

        Arguments:
            x: Own frames at level i, with shape ``(B, own, *state)``.
            past: Means remembered, the latest last.
            denoise: The guided mean at a level.
            noise: Standard normal numbers like x, for a purpose.

        Returns:
            x at level i + 1, and the means to remember.
        """

        a, b = self.levels[i], self.levels[i + 1]
        x = self._correct(x, a, denoise, noise)
        estimate = denoise(x, a)
        mean = estimate.mean
        method = self.config.method
        if method == "heun":
            y = _toward(x, mean, a, b)
            slope = (_noise_of(x, mean, a) + _noise_of(y, denoise(y, b).mean, b)) / 2
            y = _along(x, slope, a, b)
        elif method == "adams-bashforth":
            past = [*past, mean]
            y = (b.sigma / a.sigma) * x
            for c, m in zip(self._weights(i, len(past)), past, strict=True):
                y = y + c * m
            past = past[-self.memory :] if self.memory else []
        else:
            eta = 1.0 if method == "ddpm" else self.config.eta
            tau = eta * (1 - (a.alpha / b.alpha * b.sigma / a.sigma) ** 2)
            tau = min(max(tau, 0.0), 1.0)
            y = b.alpha * mean + (b.sigma * math.sqrt(1 - tau) / a.sigma) * (x - a.alpha * mean)
            if tau > 0:
                y = y + (b.sigma * math.sqrt(tau)) * noise("step")
        if estimate.shift is not None:
            y = y + estimate.shift

        return y, past

    def finish(self, x: Tensor, denoise: Denoise) -> Tensor:
        r"""The clean trajectory from x at the last level."""

        level = self.levels[-1]
        if self.config.final == "denoise":
            return denoise(x, level).mean
        return x / level.alpha

    def _correct(self, x: Tensor, level: Level, denoise: Denoise, noise: Noise) -> Tensor:
        r"""Langevin corrections at one level, x ← x − η (x − α x̂) + noise, η = 1 − √(1 − δ).

        Each step's noise is √(η/2) σ (R_k + R_k+1), half of it the next step's (Leimkuhler &
        Matthews 2013): for a Gaussian the law they leave in place is then exact for any η, where
        independent noise leaves too small a spread where σ is small, or too large a one where
        it is large. The first step has no R_0; what stands for it leaves N(α x̂, σ²) as it is.
        """

        eta = 1 - math.sqrt(1 - self.config.delta)
        half, first = math.sqrt(eta / 2) * level.sigma, math.sqrt((1.5 - eta) * eta) * level.sigma
        before = None
        for k in range(self.config.corrections):
            fresh = noise(f"correction {k}")
            x = x - eta * (x - level.alpha * denoise(x, level).mean) + half * fresh
            x = x + (first * noise("correction start") if before is None else half * before)
            before = fresh
        return x

    def _weights(self, i: int, n: int) -> list[float]:
        r"""Weights of the last n means in the exponential Adams–Bashforth step i.

        With λ = log(α/σ), x_b = (σ_b/σ_a) x_a + σ_b ∫ e^λ x̂ dλ; x̂ is interpolated by the
        polynomial through the last n calls (DPM-Solver++, Lu et al. 2022, for n = 2).
        """

        nodes = [math.log(v.alpha / v.sigma) for v in self.levels[i + 1 - n : i + 1]]
        a, b = nodes[-1], math.log(self.levels[i + 1].alpha / self.levels[i + 1].sigma)
        # Moments of e^(λ−b) (λ − a)^k over [a, b], by parts.
        h = b - a
        moments = [-math.expm1(-h)]
        for k in range(1, n):
            moments.append(h**k - k * moments[-1])
        powers = torch.tensor([[(v - a) ** k for v in nodes] for k in range(n)]).double()
        weights = torch.linalg.solve(powers, torch.tensor(moments).double())
        scale = self.levels[i + 1].alpha  # σ_b e^b

        return [scale * float(w) for w in weights]


def _noise_of(x: Tensor, mean: Tensor, level: Level) -> Tensor:
    return (x - level.alpha * mean) / level.sigma


def _along(x: Tensor, z: Tensor, a: Level, b: Level) -> Tensor:
    r"""x_b = (α_b/α_a) x_a + α_b (σ_b/α_b − σ_a/α_a) z."""

    return (b.alpha / a.alpha) * x + (b.sigma - b.alpha * a.sigma / a.alpha) * z


def _toward(x: Tensor, mean: Tensor, a: Level, b: Level) -> Tensor:
    return _along(x, _noise_of(x, mean, a), a, b)
