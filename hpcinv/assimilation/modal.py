r"""The covariance of x given x_t that a trained denoiser's own Gaussian part tells.

A :class:`~hpcinv.models.gaussian_skip.GaussianSkip` holds modes of the state, each with a variance
and a memory from frame to frame: a Gaussian Markov chain, whose covariance given x_t is known
(:mod:`.markov`), mode by mode, of any number of frames, at no cost of network calls. A network's
Jacobian, times σ_t², is a poor covariance while the noise is large: an error of a hundredth in the
Jacobian is then one of several variances, of either sign, which a solver amplifies as it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .exchange import Exchange
from .markov import MarkovCovariance

__all__ = ["ModalCovariance"]

ROWS = 16  # of a product with whole frames
FEW = 8  # of one with some numbers of a frame: there is one for each frame
KEPT = 1 << 28  # bytes of modes at the numbers seen that are kept between products


class ModalCovariance:
    r"""
    Costs O(own frames · modes · numbers of a frame) operations for each member and product.

    Arguments:
        modes: Orthonormal modes of a frame, with shape ``(D, k)``.
        variance: Their variances, with shape ``(k)``.
        memory: Their correlations from a frame to the next, with shape ``(k)``.
        rest: Variance of all that is orthogonal to the modes, without memory.
        length: Number of frames L.
    """

    def __init__(
        self, modes: Tensor, variance: Tensor, memory: Tensor, rest: float, length: int
    ) -> None:
        self._modes, self._rest = modes.detach().cpu().double(), float(rest)
        v, m = variance.detach().cpu().double(), memory.detach().cpu().double()
        self._variance, self._memory = v, m
        moments = torch.stack([torch.stack([v, v * m], -1), torch.stack([v * m, v], -1)], -1)
        window = min(2, length)
        self._chain = MarkovCovariance(
            moments[:, :window, :window], length, window, window - 1, independent=True
        )
        self._near: tuple[list[Tensor] | None, list[Tensor] | None] = None, None

    @classmethod
    def of(cls, denoiser: object, length: int) -> ModalCovariance | None:
        r"""That of a denoiser's Gaussian part; None if it has none."""
        skip = getattr(denoiser, "skip", None)
        if skip is None:
            return None
        return cls(skip.modes, skip.variance, skip.memory, float(skip.rest), length)

    def scatter(self, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        r"""Of a frame with many others on both sides: V_ii, and Σ_j (V_ij)² / V_ii², which counts
        the numbers, of all frames, that vary as one with another. Both with shape ``(D)``.

        The precision of a mode's chain is tridiagonal, a on and −b beside the diagonal; the
        inverse of an endless one is (a² − 4 b²)^−1/2 r^lag, with r + 1/r = a/b.
        """
        told = (alpha / sigma) ** 2
        fresh = 1 / (self._variance * (1 - self._memory**2))
        a, b = (1 + self._memory**2) * fresh + told, self._memory * fresh
        inside, outside = (a**2 - 4 * b**2).rsqrt(), 1 / (1 / self._rest + told)
        r = 2 * b / (a + (a**2 - 4 * b**2).sqrt())
        shares = self._modes.square()
        variance = outside + shares @ (inside - outside)
        squares = inside**2 * (1 + r**2) / (1 - r**2)
        return variance, (outside**2 + shares @ (squares - outside**2)) / variance**2

    def apply(self, v: Tensor, alpha: float, sigma: float) -> Tensor:
        r"""V v of whole trajectories, with shape ``(B, L, *state)``."""
        return self._at(Exchange([], self._chain.length), v, alpha, sigma)

    def _at(self, exchange: Exchange, v: Tensor, alpha: float, sigma: float) -> Tensor:
        u = v.detach().cpu().double().flatten(2)
        a = _by_rows(u, self._modes)
        inside = self._chain._at(exchange, a, alpha, sigma)
        if self._modes.shape[1] == len(self._modes):
            return _by_rows(inside, self._modes.T).reshape(v.shape).to(v)
        outside = 1 / (1 / self._rest + (alpha / sigma) ** 2)
        found = outside * u + _by_rows(inside - outside * a, self._modes.T)
        return found.reshape(v.shape).to(v)

    def __call__(self, v: list[Tensor], *, exchange: Exchange, level) -> list[Tensor]:
        r"""V v at own frames; a collective of the member group."""
        (own,) = v
        return [self._at(exchange, own, level.alpha, level.sigma)]

    def among(
        self, v: list[Tensor], *, exchange: Exchange, level, numbers: list[Tensor]
    ) -> list[Tensor]:
        r"""V v between some numbers of each frame, outside of which v is zero and V v is not
        wanted (zero is returned): O(modes · these numbers) operations. What sees a hundredth of a
        frame is solved for a hundredth of the price. A collective of the member group.

        Arguments:
            numbers: Of each own frame, the places of its numbers in the flattened frame.
        """
        (own,) = v
        u = own.detach().cpu().flatten(2)
        # One frame after the other: what is seen differs.
        seen = [u[:, f, at].double() for f, at in enumerate(numbers)]
        a = u.new_zeros((len(u), len(numbers), self._modes.shape[1]), dtype=torch.float64)
        for f, (x, m) in enumerate(zip(seen, self._rows_of(numbers), strict=True)):
            a[:, f] = _by_rows(x[:, None], m, FEW)[:, 0]
        inside = self._chain._at(exchange, a, level.alpha, level.sigma)
        outside = 0.0  # nothing is outside of as many modes as numbers
        if self._modes.shape[1] < len(self._modes):
            outside = 1 / (1 / self._rest + (level.alpha / level.sigma) ** 2)
        out = torch.zeros_like(u)
        inside -= outside * a
        for f, (x, m) in enumerate(zip(seen, self._rows_of(numbers), strict=True)):
            found = outside * x + _by_rows(inside[:, f, None], m.T, FEW)[:, 0]
            out[:, f, numbers[f]] = found.to(out)
        return [out.reshape(own.shape).to(own)]

    def _rows_of(self, numbers: list[Tensor]) -> Iterable[Tensor]:
        r"""The modes at some numbers of each frame, kept if they are few."""
        if self._near[0] is not numbers:
            size = sum(map(len, numbers)) * self._modes.shape[1] * self._modes.element_size()
            rows = [self._modes[at] for at in numbers] if size <= KEPT else None
            self._near = numbers, rows
        return self._near[1] or (self._modes[at] for at in numbers)


def _by_rows(x: Tensor, matrix: Tensor, many: int = ROWS) -> Tensor:
    r"""Products of (B, L, m) with (m, n), rounded alike however many frames a rank has: always of
    as many rows, some of them zero. Each reads the matrix, which is larger than what it is
    multiplied with, once for all its rows."""
    rows = x.flatten(0, 1)
    n = len(rows)
    rows = torch.cat([rows, rows.new_zeros(-n % many, rows.shape[1])])
    found = torch.cat([part @ matrix for part in rows.split(many)])
    return found[:n].unflatten(0, x.shape[:2])
