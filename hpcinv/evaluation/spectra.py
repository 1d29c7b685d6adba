r"""Power spectra of fields: on the sphere by degree, on a plane by wave number.

On a global grid of latitude and longitude the power of degree l is
:math:`\sum_m (a_{lm}^2 + b_{lm}^2)` of the spherical harmonics of unit mean square, so that the
degrees add up to the area mean of the field's square, as far as the grid resolves it. Integrals
over latitude use the weights that integrate polynomials exactly on the grid's own rows, hence the
harmonics are separated exactly up to half the number of rows (and at most degree 255).

Elsewhere a cosine transform, which asks for no periodicity, is summed over bands of
:math:`\alpha = (\sum_a (k_a / N_a)^2)^{1/2}` (Denis, Cote & Laprise 2002,
doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2); all bands add up to the mean square.
"""

from __future__ import annotations

__all__ = ["Cartesian", "Spherical", "spectrum"]

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..models.sphere import legendre
from ..observations.stencils import axes, goes_around

HIGHEST = 255


def spectrum(store: Any) -> Spherical | Cartesian | None:
    r"""The spectrum that suits a trajectory's grid; None with a mask or more than two axes."""
    if store.mask is not None and not np.asarray(store.mask, bool).all():
        return None
    if not 1 <= len(store.grid) <= 2 or min(store.grid) < 4:
        return None
    of = axes(store)
    if set(of) == {"lat", "lon"}:
        lat, lon = (np.asarray(list(store.coords.values())[of[k]], float) for k in ("lat", "lon"))
        step = np.abs(np.diff(lat)).max()
        if goes_around(lon) and 90 - np.abs(lat).max() <= step and lat.min() < 0 < lat.max():
            return Spherical(lat, lon, swapped=of["lat"] == 1)
    return Cartesian(store.grid)


class _Spectrum(ABC):
    waves: np.ndarray

    @abstractmethod
    def power(self, x: np.ndarray) -> np.ndarray:
        r"""Power of fields :math:`(n, *grid)` in each wave: :math:`(n, K)`."""

    def three(self, x: Iterable[np.ndarray], y: np.ndarray, members: int) -> np.ndarray:
        r"""Power of the truth, of the members on average, and of their mean.

        Arguments:
            x: Members one by one, each with shape :math:`(C, n)`, n the points of the grid in C
                order.
            y: Truth, with shape :math:`(C, n)`.
            members: How many there are.

        Returns:
            With shape :math:`(3, C, K)`.
        """
        C = len(y)
        out = np.zeros((3, C, len(self.waves)))
        out[0] = self.power(y.reshape(C, *self.grid))
        mean = np.zeros(y.shape)
        for one in x:
            out[1] += self.power(one.reshape(C, *self.grid)) / members
            mean += one
        out[2] = self.power((mean / members).reshape(C, *self.grid))
        return out


class Spherical(_Spectrum):
    r"""Power by degree on a global grid.

    Arguments:
        lat, lon: The rows and columns, degrees; columns evenly spaced.
        swapped: The grid's first axis is longitude.
    """

    name = "degree"

    def __init__(self, lat: np.ndarray, lon: np.ndarray, swapped: bool = False) -> None:
        self.swapped = swapped
        self.grid = (len(lon), len(lat)) if swapped else (len(lat), len(lon))
        top = min((len(lat) - 1) // 2, (len(lon) - 1) // 2, HIGHEST)
        self.waves = np.arange(top + 1)
        sine = np.sin(np.deg2rad(lat))
        # Weights that integrate P_l, l up to twice the highest degree: 1 for l = 0, else nothing.
        moments = np.polynomial.legendre.legvander(sine, 2 * top).T
        wanted = np.zeros(2 * top + 1)
        wanted[0] = 1.0
        self.weights = np.linalg.lstsq(moments, wanted, rcond=None)[0]
        functions = legendre(top, sine)
        functions *= self.weights
        self.functions = np.ascontiguousarray(functions.swapaxes(0, 1))  # (m, l, rows)

    def power(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        if self.swapped:
            x = x.swapaxes(1, 2)
        top = len(self.waves) - 1
        wave = np.fft.rfft(x, axis=2)[..., : top + 1] / x.shape[2]  # (n, rows, m)
        n = len(wave)
        wave = wave.transpose(2, 1, 0)  # (m, rows, n); its real and imaginary parts side by side
        parts = np.concatenate([wave.real, wave.imag], 2)
        power = np.square(self.functions @ parts).sum(0)  # (l, 2 n): all orders of a degree
        # The harmonics have unit mean square and f's mean with one is its coefficient: real and
        # imaginary part of the product, whichever meridian comes first.
        return (power[:, :n] + power[:, n:]).T


class Cartesian(_Spectrum):
    r"""Power by bands of wave number on a plane, or a line: any grid of one or two axes."""

    name = "band"

    def __init__(self, grid: tuple[int, ...]) -> None:
        self.grid = tuple(grid)
        n = min(grid)
        alpha = np.sqrt(
            sum(
                np.square(np.arange(N) / N).reshape(
                    [-1 if a == b else 1 for b in range(len(grid))]
                )
                for a, N in enumerate(grid)
            )
        )
        self.band = np.rint(alpha * n).astype(np.int64)
        self.waves = np.arange(int(self.band.max()) + 1)

    def power(self, x: np.ndarray) -> np.ndarray:
        from scipy.fft import dctn

        x = np.asarray(x, np.float64)
        a = dctn(x, norm="ortho", axes=tuple(range(1, x.ndim))).reshape(len(x), -1) ** 2
        size = len(self.waves)
        band = self.band.reshape(-1)
        return np.stack([np.bincount(band, row, size) for row in a]) / a.shape[1]
