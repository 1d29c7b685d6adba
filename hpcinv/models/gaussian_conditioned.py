r"""The exact denoiser of a linear-Gaussian trajectory that was also observed at its points.

Of a Gaussian the posterior given a noisy window *and* observations is known, whatever was observed
and how well: what a conditioned network would otherwise have to learn from samples, interpolation
in space and time, it starts from. The network learns what the Gaussian leaves out.
"""

from __future__ import annotations

__all__ = ["ConditionedSkip"]

from collections.abc import Sequence

import torch
from torch import Tensor

from hpcinv.models.gaussian_skip import GaussianSkip

EXACT = 1e-4  # the smallest variance of an observation, of a state of variance one


class ConditionedSkip(GaussianSkip):
    r"""E[x | x_t, y] for the modes of a :class:`GaussianSkip`, y seen through their fields.

    With :math:`x = U a + r`, the modes' inverse covariance Q is tridiagonal in time and diagonal
    in modes, and :math:`r` is white outside the modes. Given :math:`x_t` what is left of r has
    the variance :math:`v = \rho \sigma^2 / (\alpha^2 \rho + \sigma^2)` in each direction, so
    that y tells of a with the error :math:`s^2 + v (1 - |U_j|^2)`, whose reciprocals make P:

    .. math:: \left( Q + \frac{\alpha^2}{\sigma^2} I + U^T P U \right) \hat a
        = \frac{\alpha}{\sigma^2} U^T x_t + U^T P (y - \hat r),

    a system that is block tridiagonal over frames. Errors that the white part gives to two points
    are taken as independent; where all modes are kept, the mean is exact.

    Arguments:
        size: The number of values of a frame.
        modes: The number of modes kept.
        points: The number of grid points of a channel.
        observed: The channels that can be observed.
    """

    def __init__(self, size: int, modes: int, points: int, observed: Sequence[int]) -> None:
        super().__init__(size, modes)
        at = torch.tensor(list(observed))[:, None] * points + torch.arange(points)
        self.register_buffer("at", at.flatten(), persistent=False)

    def forward(
        self,
        x_t: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        times: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        r"""
        Arguments:
            x_t: Noisy windows, with shape :math:`(B, W, *)`.
            alpha: The scales :math:`\alpha_t`, with shape :math:`(B)`.
            sigma: The noise levels :math:`\sigma_t`, with shape :math:`(B)`.
            times: The times of the frames, as of :class:`GaussianSkip`.
            y: The fields of what is observed (:mod:`hpcinv.models.observed_fields`), with shape
                :math:`(B, W, 2 c, *grid)`; nothing is when it is None.

        Returns:
            The posterior means, with the shape of `x_t`.
        """
        if y is None:
            return super().forward(x_t, alpha, sigma, times)
        x = x_t.flatten(2)
        B, W, _ = x.shape
        if times is None:
            times = torch.arange(W, dtype=torch.float32, device=x.device)
        alpha, sigma = alpha.reshape(-1, 1, 1).to(x), sigma.reshape(-1, 1, 1).to(x)
        value, weight = y.to(x).flatten(3).unflatten(2, (2, -1)).unbind(2)
        value, weight = value.flatten(2), weight.flatten(2)  # (B, W, n)
        seen = weight > 0
        value = value / weight.where(seen, weight.new_ones(()))
        error = (1 / weight.where(seen, weight.new_ones(())) - 1).clamp_min(EXACT)
        a = x @ self.modes
        U = self.modes[self.at]  # (n, k)
        left = self.rest * sigma**2 / (alpha**2 * self.rest + sigma**2)
        gain = alpha * self.rest / (alpha**2 * self.rest + sigma**2)
        outside = gain * (x - a @ self.modes.T)
        white = left * (1 - U.square().sum(1)).clamp_min(0.0)
        departure = value - outside[..., self.at]
        precision = torch.where(seen, 1 / (error + white), 0.0)
        right = alpha / sigma**2 * a + (precision * departure) @ U
        diagonal, beside = self._precision(times.expand(B, W))
        A = torch.einsum("bwn,nk,nl->bwkl", precision, U, U)
        A = A + torch.diag_embed(diagonal + (alpha / sigma) ** 2)
        a_hat = _tridiagonal(A, beside, right)
        # The white part has what the modes do not explain, and stays outside of them.
        rest = left * precision * (departure - a_hat @ U.T)
        outside = outside.index_add(2, self.at, rest)
        return ((a_hat - rest @ U) @ self.modes.T + outside).reshape(x_t.shape)

    def _precision(self, times: Tensor) -> tuple[Tensor, Tensor]:
        r"""Of the modes' autoregression: the diagonal of its inverse covariance, (B, W, k), and
        what couples a frame to the next, (B, W - 1, k)."""
        gap = (times[:, 1:] - times[:, :-1]).abs()[..., None].to(self.memory)
        rho = self.memory**gap
        new = 1 / (1 - rho**2)
        diagonal = torch.ones(*times.shape, len(self.memory)).to(rho)
        diagonal[:, 1:] += new - 1
        diagonal[:, :-1] += rho**2 * new
        return diagonal / self.variance, -rho * new / self.variance


def _tridiagonal(A: Tensor, beside: Tensor, right: Tensor) -> Tensor:
    r"""Solves a symmetric block tridiagonal system whose blocks beside the diagonal are diagonal.

    Arguments:
        A: Blocks of the diagonal, :math:`(B, W, k, k)`, positive.
        beside: Diagonals of the blocks beside, :math:`(B, W - 1, k)`.
        right: :math:`(B, W, k)`.

    Returns:
        The solution, :math:`(B, W, k)`.
    """
    # Thomas's algorithm: what the frames before tell of the next goes into its block.
    W, factors, told = A.shape[1], [], []
    block, b = A[:, 0], right[:, 0]
    for i in range(W):
        L = torch.linalg.cholesky(block)
        factors.append(L)
        told.append(torch.cholesky_solve(b[..., None], L)[..., 0])
        if i + 1 < W:
            c = beside[:, i]
            inverse = torch.cholesky_inverse(L)
            block = A[:, i + 1] - c[..., None] * inverse * c[:, None, :]
            b = right[:, i + 1] - c * told[-1]
    out = [told[-1]]
    for i in reversed(range(W - 1)):
        back = torch.cholesky_solve((beside[:, i] * out[-1])[..., None], factors[i])[..., 0]
        out.append(told[i] - back)
    return torch.stack(out[::-1], 1)
