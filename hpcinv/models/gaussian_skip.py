r"""The exact denoiser of a linear-Gaussian trajectory, as the skip of a trained one.

Latents of an archive too small for a network to learn its covariance well are first described by
a Gaussian: spatial modes, each an independent first-order autoregression in time. For that process
the denoiser is known exactly; the network learns what the Gaussian leaves out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

KEPT = 64  # patterns of times whose eigenvectors are kept


def principal(covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Eigenvalues and eigenvectors of a covariance (D, D), the largest first.

    Numbers that never vary (land) are left out of the decomposition, of which LAPACK, in single
    precision, gives up or gives NaN where there are many; they are eigenvectors themselves. What
    it gives up for another reason is decomposed in double precision.
    """
    varies = covariance.diagonal() > 0
    inner = covariance[varies][:, varies]
    try:
        values, vectors = torch.linalg.eigh(inner)
        fine = bool(values.isfinite().all() and vectors.isfinite().all())
    except torch.linalg.LinAlgError:
        fine = False
    if not fine:
        values, vectors = (v.to(covariance) for v in torch.linalg.eigh(inner.double()))
    n = len(values)
    whole = covariance.new_zeros(covariance.shape)
    whole[varies, :n] = vectors.flip(1)
    whole[~varies, n:] = torch.eye(len(covariance) - n).to(covariance)
    return torch.cat([values.flip(0), values.new_zeros(len(covariance) - n)]), whole


class GaussianSkip(nn.Module):
    r"""E[x | x_t] for modes of variance :math:`\lambda_k` and lag-one correlation :math:`\rho_k`.

    With :math:`x = U a` and Cov(a_{k,i}, a_{k,j}) = :math:`\lambda_k \rho_k^{|i - j|}`, each mode
    is denoised apart by :math:`\alpha T_k (\alpha^2 T_k + \sigma^2 I)^{-1}`. Directions outside
    the kept modes have the variance `rest` and no correlation in time.

    Arguments:
        size: The number of values :math:`D` of a frame.
        modes: The number :math:`k` of modes kept, at most D.
    """

    def __init__(self, size: int, modes: int) -> None:
        super().__init__()
        self.register_buffer("modes", torch.eye(size, modes))
        self.register_buffer("variance", torch.ones(modes))
        self.register_buffer("memory", torch.zeros(modes))
        self.register_buffer("rest", torch.ones(()))
        self._eigen: dict[tuple, tuple[Tensor, Tensor]] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaussianSkip:
        # A network may be cast to 16 bits; the statistics it starts from keep their precision.
        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            wide = moved.dtype in (torch.float32, torch.float64)
            return moved if wide else tensor.to(moved.device)

        return super()._apply(keep_wide, recurse)

    @torch.no_grad()
    def fit(self, x: Tensor, shrinkage: float = 0.1, step: int = 1) -> None:
        r"""Measures the modes on training windows.

        Arguments:
            x: Training windows, with shape :math:`(N, W, *)` and D values per frame.
            shrinkage: The weight given to the diagonal of the covariance, which an archive of
                few windows needs (Ledoit and Wolf, 2004).
            step: Frames from one of a window to the next.
        """
        x = x.flatten(2)
        frames = x.flatten(0, 1)
        covariance = frames.T @ frames / len(frames)
        diagonal = torch.diag(covariance.diagonal())
        covariance = (1 - shrinkage) * covariance + shrinkage * diagonal
        values, vectors = principal(covariance)
        k = len(self.variance)
        values = values.clamp_min(1e-4)
        # Eigenvectors are defined up to their sign: fix it, so that two fits agree.
        sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        vectors = vectors * sign
        self.modes.copy_(vectors[:, :k])
        self.variance.copy_(values[:k])
        if k < len(values):
            self.rest.copy_(values[k:].mean())
        if x.shape[1] > 1:
            a = x @ self.modes
            lagged = (a[:, 1:] * a[:, :-1]).mean((0, 1)) / a.square().mean((0, 1)).clamp_min(1e-12)
            self.memory.copy_(lagged.clamp(0.0, 0.98**step) ** (1 / step))
        self._eigen.clear()

    def _temporal(self, times: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        r"""Eigenvalues (k, W) and eigenvectors (k, W, W) of every mode's correlation in time."""
        key = (times, self.memory.device, self.memory.dtype)
        if key not in self._eigen:
            if len(self._eigen) >= KEPT:
                self._eigen.clear()
            with torch.no_grad():
                i = torch.tensor(times, dtype=torch.float64, device=self.memory.device)
                lag = (i[:, None] - i[None, :]).abs()
                correlation = self.memory.double()[:, None, None] ** lag
                values, vectors = torch.linalg.eigh(correlation)
                self._eigen[key] = values.to(self.memory), vectors.to(self.memory)
        return self._eigen[key]

    def forward(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, times: Tensor | None = None
    ) -> Tensor:
        r"""
        Arguments:
            x_t: Noisy windows, with shape :math:`(B, W, *)`.
            alpha: The scales :math:`\alpha_t`, with shape :math:`(B)`.
            sigma: The noise levels :math:`\sigma_t`, with shape :math:`(B)`.
            times: The times of the frames, in frames of the training data, with shape
                :math:`(B, W)`; one after the other when it is None.

        Returns:
            The posterior means, with the shape of `x_t`.
        """
        if times is None:
            return self._denoise(x_t, alpha, sigma, tuple(range(x_t.shape[1])))
        rows: dict[tuple[float, ...], list[int]] = {}
        for k, row in enumerate((times - times[:, :1]).tolist()):
            rows.setdefault(tuple(row), []).append(k)
        if len(rows) == 1:
            return self._denoise(x_t, alpha, sigma, next(iter(rows)))
        out = torch.empty_like(x_t)
        for row, k in rows.items():
            out[k] = self._denoise(x_t[k], alpha[k], sigma[k], row)
        return out

    def _denoise(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, times: tuple[float, ...]
    ) -> Tensor:
        shape = x_t.shape
        x = x_t.flatten(2)
        values, vectors = self._temporal(times)
        alpha, sigma = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        a = x @ self.modes  # (B, W, k)
        power = (self.variance[:, None] * values).T[None]  # (1, W, k)
        gain = alpha * power / (alpha**2 * power + sigma**2)
        a_hat = torch.einsum("kwi,bwk->bik", vectors, a) * gain
        a_hat = torch.einsum("kwi,bik->bwk", vectors, a_hat)
        if len(self.variance) == x.shape[-1]:
            return (a_hat @ self.modes.T).reshape(shape)
        outside = alpha * self.rest / (alpha**2 * self.rest + sigma**2)
        return (outside * x + (a_hat - outside * a) @ self.modes.T).reshape(shape)
