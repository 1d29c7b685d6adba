r"""The covariance of x given x_t if the trajectory were a Gaussian Markov chain.

Among all distributions with the windows' second moments, the one of maximum entropy has precision
Λ = Σ_w C_w⁻¹ − Σ_o C_o⁻¹ (windows minus overlaps). Given x_t = α x + σ ε, the covariance is
(Λ + α²/σ² I)⁻¹: positive, of long range, and free of vector–Jacobian products.

Λ is banded: a frame knows the W − 1 before it. Its Cholesky factor is made and used row by row,
each rank holding its own frames' rows; what a slab needs of the one before is the corner of the
factor and the last W − 1 frames of the solution on their way. So no rank sees more than its frames
and a window, and since every row is computed in the same order from the same numbers, the result
does not depend on the number of slabs. The sweeps run through the slabs one after another; members
follow each other in a pipeline.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..waiting import at as waiting
from .exchange import Exchange
from .windows import cover

__all__ = ["MarkovCovariance"]


class MarkovCovariance:
    r"""
    Costs O(own frames · W k²) numbers on a rank for each variable or block of k coupled ones, and
    as many operations per member and product.

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
        self._windows = cover(length, window, overlap)
        W = self._windows[0][1]
        if independent:
            self._state = tuple(moments.shape[:-2])
            C = moments.double().reshape(-1, *moments.shape[-2:])[:, :W, :W]
            self._k = 1
        else:
            half = moments.ndim // 2
            if moments.shape[:half] != moments.shape[half:] or moments.shape[0] < W:
                raise BadInput(
                    f"second moments of shape {tuple(moments.shape)} for windows of {W}",
                    where="markov",
                )
            self._state = tuple(moments.shape[1:half])
            self._k = int(np.prod(self._state))
            whole = moments.double().reshape(len(moments), self._k, len(moments), self._k)
            C = whole[:W, :, :W].reshape(1, W * self._k, W * self._k)
        values, vectors = torch.linalg.eigh((C + C.mT) / 2)
        values = values.clamp(min=floor * float(values.max()))
        self._C = (vectors * values[:, None]) @ vectors.mT
        self.length, self.reach = length, W - 1  # frames before a frame that its row knows
        self._terms: dict[int, Tensor] = {}
        self._rows: dict[tuple[int, int], Tensor] = {}
        self._factors: dict[tuple, tuple[Tensor, Tensor]] = {}

    def _term(self, shared: int) -> Tensor:
        r"""What a window adds to Λ beyond the frames it shares with the one before."""

        if shared not in self._terms:
            n = shared * self._k
            out = torch.linalg.inv(self._C)
            out[:, :n, :n] -= torch.linalg.inv(self._C[:, :n, :n])
            self._terms[shared] = (out + out.mT) / 2
        return self._terms[shared]

    def rows(self, a: int, b: int) -> Tensor:
        r"""Rows a..b−1 of Λ, from ``reach`` frames before each: ``(b − a, V, k, (W)k)``."""

        if (a, b) not in self._rows:
            k, reach = self._k, self.reach
            out = self._C.new_zeros((b - a, len(self._C), k, (reach + 1) * k))
            before = 0
            for start, stop in self._windows:
                term = self._term(max(before - start, 0))
                before = stop
                for f in range(max(a, start), min(b, stop)):
                    i = (f - start) * k
                    out[f - a, ..., (reach - f + start) * k :] += term[:, i : i + k, : i + k]
            self._rows[a, b] = out
        return self._rows[a, b]

    def _factor(self, exchange: Exchange, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        r"""Own rows of the Cholesky factor of Λ + α²/σ² I, and the inverses of its diagonal.

        Returns:
            ``(own, V, k, reach k)`` and ``(own, V, k, k)``.
        """

        key = (exchange.frames, exchange.size, alpha, sigma)
        if key in self._factors:
            return self._factors[key]
        a, b = exchange.frames
        rows, k, n = self.rows(a, b), self._k, self.reach * self._k
        # The factor among the last `reach` frames; before the first one, frames known exactly.
        corner = torch.eye(n, dtype=torch.float64).expand(len(self._C), n, n).clone()
        corner = _receive(exchange, -1, corner)
        left = torch.zeros((b - a, len(self._C), k, n), dtype=torch.float64)
        inverse = torch.zeros((b - a, len(self._C), k, k), dtype=torch.float64)
        eye = torch.eye(k, dtype=torch.float64)
        for i, row in enumerate(rows):
            if n:
                left[i] = torch.linalg.solve_triangular(corner, row[..., :n].mT, upper=False).mT
            own = row[..., n:] + (alpha / sigma) ** 2 * eye - left[i] @ left[i].mT
            diagonal = torch.linalg.cholesky((own + own.mT) / 2)
            inverse[i] = torch.linalg.solve_triangular(diagonal, eye.expand_as(own), upper=False)
            if n:
                corner = torch.nn.functional.pad(corner, (0, k, 0, k))[:, k:, k:]
                corner[:, -k:] = torch.cat([left[i][..., k:], diagonal], -1)
        _send(exchange, 1, corner)
        while len(self._factors) > 1:  # Heun goes back and forth between two levels
            self._factors.pop(next(iter(self._factors)))
        self._factors[key] = left, inverse
        return left, inverse

    def _solve(self, exchange: Exchange, v: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""(Λ + α²/σ² I)⁻¹ v at own frames, ``(B, own, V, k)``."""

        left, inverse = self._factor(exchange, alpha, sigma)
        B, own, V, k = v.shape
        n, out = self.reach * k, torch.empty_like(v)
        parts = np.array_split(np.arange(B), min(B, exchange.size))
        for part in parts:
            # y of the frames before, the nearest last: (members, V, reach k).
            past = _receive(exchange, -1, v.new_zeros((len(part), V, n)))
            for i in range(own):
                r = v[part, i] - (left[i] * past[:, :, None]).sum(-1)
                y = (inverse[i] * r[:, :, None]).sum(-1)
                out[part, i] = y
                past = torch.cat([past, y], -1)[..., k:]
            _send(exchange, 1, past)
        for part in parts:
            # What later frames take off y of the frames before them, the nearest last.
            taken = _receive(exchange, 1, v.new_zeros((len(part), V, n)))
            for i in reversed(range(own)):
                here = taken[..., n - k :] if n else 0.0
                z = (inverse[i] * (out[part, i] - here)[..., None]).sum(-2)
                out[part, i] = z
                if n:
                    taken = torch.nn.functional.pad(taken, (k, 0))[..., :n]
                    taken = taken + (left[i] * z[..., None]).sum(-2)
            _send(exchange, -1, taken)
        return out

    def apply(self, v: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""V v of whole trajectories, with shape ``(B, L, *state)``."""

        return self._at(Exchange([], self.length), v, alpha, sigma)

    def _at(self, exchange: Exchange, v: Tensor, alpha: float, sigma: float) -> Tensor:
        u = v.detach().cpu().double().reshape(*v.shape[:2], -1, self._k)
        return self._solve(exchange, u, alpha, sigma).reshape(v.shape).to(v)

    def __call__(self, v: list[Tensor], *, exchange: Exchange, level) -> list[Tensor]:
        r"""V v at own frames; a collective of the member group."""

        (own,) = v
        return [self._at(exchange, own, level.alpha, level.sigma)]


def _receive(exchange: Exchange, side: int, x: Tensor) -> Tensor:
    r"""``x`` as the slab before (−1) or after (1) left it; ``x`` itself at the end of the row."""

    other = exchange.rank + side
    if not 0 <= other < exchange.size:
        return x
    buffer = np.empty(x.shape)
    with waiting("a sweep through the time slabs"):
        exchange.comm.Recv(buffer, source=other, tag=3)
    return torch.from_numpy(buffer)


def _send(exchange: Exchange, side: int, x: Tensor) -> None:
    other = exchange.rank + side
    if 0 <= other < exchange.size:
        buffer = np.ascontiguousarray(x.numpy())
        with waiting("a sweep through the time slabs"):
            exchange.comm.Send(buffer, dest=other, tag=3)
        exchange.sent += buffer.nbytes
