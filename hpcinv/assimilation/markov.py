r"""The covariance of x given x_t if the trajectory were a Gaussian Markov chain.

Among all distributions with the windows' second moments, the one of maximum entropy has precision
Λ = Σ_w C_w⁻¹ − Σ_o C_o⁻¹ (windows minus overlaps). Given x_t = α x + σ ε, the covariance is
(Λ + α²/σ² I)⁻¹: positive, of long range, and free of vector–Jacobian products.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .exchange import Exchange
from .windows import cover

__all__ = ["MarkovCovariance"]


class MarkovCovariance:
    r"""
    The trajectory's frames are gathered on every rank of a member group for the solve, which costs
    O(L k (k W)) for blocks of k coupled variables.

    Arguments:
        moments: Covariance of a window of frames of the sampled state, with shape
            ``(W, *state, W, *state)``.
        length: Number of frames L.
        window: Frames W of the windows whose moments are used.
        overlap: Frames V they share.
        independent: The state's variables are taken as independent of each other, and ``moments``
            has shape ``(*state, W, W)``.
        floor: Smallest eigenvalue of a window's covariance, relative to the largest.
    """

    def __init__(
        self,
        moments: Tensor,
        length: int,
        window: int,
        overlap: int,
        independent: bool = False,
        floor: float = 1e-6,
    ) -> None:
        windows = cover(length, window, overlap)
        W = windows[0][1] - windows[0][0]
        if independent:
            self._state = tuple(moments.shape[:-2])
            C = moments.double().reshape(-1, moments.shape[-1], 1, moments.shape[-1], 1)
        else:
            half = moments.ndim // 2
            if moments.shape[:half] != moments.shape[half:] or moments.shape[0] < W:
                raise BadInput(
                    f"second moments of shape {tuple(moments.shape)} for windows of {W}",
                    where="markov",
                )
            self._state = tuple(moments.shape[1:half])
            n = int(np.prod(self._state))
            C = moments.double().reshape(1, len(moments), n, len(moments), n)
        self._length, self._floor = length, floor
        self._precision = self._assemble(C, windows)  # (variables, L n, L n)
        self._eigen = torch.linalg.eigh(self._precision)

    def _inverse(self, C: Tensor, n: int) -> Tensor:
        block = C[:, :n, :, :n].flatten(3, 4).flatten(1, 2)
        L, Q = torch.linalg.eigh((block + block.mT) / 2)
        L = L.clamp(min=self._floor * float(L.max()))
        return (Q / L[:, None, :]) @ Q.mT

    def _assemble(self, C: Tensor, windows: Sequence[tuple[int, int]]) -> Tensor:
        k = C.shape[2]
        out = torch.zeros((len(C), self._length * k, self._length * k), dtype=torch.float64)
        cache: dict[int, Tensor] = {}
        pairs = [(w, 1.0) for w in windows]
        pairs += [((b, s), -1.0) for (_, s), (b, _) in itertools.pairwise(windows)]
        for (a, b), sign in pairs:
            if b - a not in cache:
                cache[b - a] = self._inverse(C, b - a)
            part = slice(a * k, b * k)
            out[:, part, part] += sign * cache[b - a]
        return out

    def apply(self, v: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""V v of whole trajectories, with shape ``(B, L, *state)``."""

        L, Q = self._eigen
        gain = 1 / (L.clamp(min=0) + (alpha / sigma) ** 2)
        u = v.double()
        if len(Q) == 1:
            z = u.flatten(1) @ Q[0]
            z = (z * gain[0]) @ Q[0].T
            return z.view(u.shape).to(v)
        u = u.flatten(2)  # (B, L, variables)
        z = torch.einsum("blv,vli->bvi", u, Q) * gain
        return torch.einsum("bvi,vli->blv", z, Q).reshape(v.shape).to(v)

    def __call__(self, v: list[Tensor], *, exchange: Exchange, level) -> list[Tensor]:
        r"""V v at own frames; a collective of the member group."""

        (own,) = v
        a, b = exchange.frames
        if exchange.size == 1:
            return [self.apply(own, level.alpha, level.sigma)]
        whole = np.zeros((own.shape[0], self._length, *own.shape[2:]), own.cpu().numpy().dtype)
        whole[:, a:b] = own.cpu().numpy()
        whole = torch.from_numpy(exchange.sum(whole)).to(own)
        return [self.apply(whole, level.alpha, level.sigma)[:, a:b]]
