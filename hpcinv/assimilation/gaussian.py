r"""Exact Gaussian denoisers of any number of frames, from those of one window."""

from __future__ import annotations

import torch
from azula.denoise import Denoiser, DiracPosterior, GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from torch import Tensor

from ..errors import BadInput

__all__ = ["StationaryGaussian", "adapted"]


class StationaryGaussian(Denoiser):
    r"""The denoiser of runs of frames of a stationary Gaussian process.

    x[1:W] ~ N(μ, C). A run of n ≤ W frames has the marginal of the first n; with ``step`` k, of
    frames 0, k, 2k, ….

    Arguments:
        mean: With shape ``(W, *state)``.
        covariance: With shape ``(W, *state, W, *state)``.
        schedule: An azula schedule.
        step: Time step of the frames it is called with.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, schedule, step: int = 1) -> None:
        super().__init__()
        self.schedule, self.step = schedule, step
        self._mean, self._state = mean, mean.shape[1:]
        n = self._state.numel()
        self._C = covariance.reshape(len(mean), n, len(mean), n)
        self._parts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def _part(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        r"""Mean, eigenvalues and eigenvectors of the marginal of n frames."""

        if n not in self._parts:
            at = torch.arange(n) * self.step
            if int(at[-1]) >= len(self._mean):
                raise BadInput(
                    f"{n} frames, {self.step} apart, of a Gaussian known for {len(self._mean)}",
                    where="denoiser",
                )
            C = self._C[at][:, :, at].reshape(n * self._C.shape[1], -1)
            L, Q = torch.linalg.eigh(C)
            self._parts[n] = self._mean[at].flatten(), L.clamp(min=0), Q
        return self._parts[n]

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:
        r"""
        Arguments:
            x_t: Noisy frames, with shape ``(B, n, *state)``.
            t: The time, with shape ``()``.
        """

        alpha, sigma = self.schedule(t)
        mean, L, Q = self._part(x_t.shape[1])
        mean, L, Q = mean.to(x_t), L.to(x_t), Q.to(x_t)
        gain = alpha * L / (alpha**2 * L + sigma**2)
        z = ((x_t.flatten(1) - alpha * mean) @ Q) * gain

        return DiracPosterior(mean=(mean + z @ Q.T).view_as(x_t))


def adapted(denoiser):
    r"""A denoiser that takes any number of frames: azula's exact Gaussian ones are adapted."""

    if not isinstance(denoiser, GaussianDenoiser):
        return denoiser
    if not isinstance(denoiser.cov, FullCovariance):
        return denoiser
    Q, L = denoiser.cov.Q, denoiser.cov.L
    flat = Q.reshape(-1, Q.shape[-1])
    C = (flat * L) @ flat.T
    shape = denoiser.mean.shape

    return StationaryGaussian(denoiser.mean, C.reshape(*shape, *shape), denoiser.schedule)
