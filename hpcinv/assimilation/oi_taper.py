r"""Localisation: tapers that are correlation functions, as factors that can be drawn from.

A taper :math:`\rho` over the grid is kept as :math:`\rho = F F^T` with a tall thin F, from a
pivoted Cholesky factorisation. Interpolation multiplies covariances by it, and a field
:math:`F \epsilon` with white :math:`\epsilon` has exactly that correlation, so that members are
drawn from the very covariance the interpolation uses. Distances are chords through the sphere:
a function positive definite in space stays so on the sphere, which great-circle distances do
not guarantee (Gaspari & Cohn 1999, doi:10.1002/qj.49712555417).
"""

from __future__ import annotations

__all__ = ["bartlett", "factor", "gaspari_cohn", "gaussian", "positions"]

from collections.abc import Callable

import numpy as np

from ..models.sphere import EARTH_RADIUS_KM as EARTH_KM


def gaussian(r: np.ndarray) -> np.ndarray:
    r""":math:`\exp(-r^2 / 2)`."""
    return np.exp(-0.5 * r**2)


def gaspari_cohn(r: np.ndarray) -> np.ndarray:
    r"""Gaspari & Cohn's equation 4.10, with the curvature of `gaussian` at the origin.

    It vanishes from :math:`r = 2 \sqrt{10/3}` on.
    """
    z = np.abs(r) / np.sqrt(10 / 3)
    near = ((-z / 4 + 0.5) * z + 0.625) * z**3 - 5 / 3 * z**2 + 1
    far = ((((z / 12 - 0.5) * z + 0.625) * z + 5 / 3) * z - 5) * z + 4
    with np.errstate(divide="ignore"):
        far = far - 2 / 3 / np.where(z > 0, z, 1.0)
    return np.where(z <= 1, near, np.where(z < 2, far, 0.0))


TAPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": gaussian,
    "gaspari_cohn": gaspari_cohn,
}


def bartlett(lag: np.ndarray, lags: int) -> np.ndarray:
    r"""Bartlett's taper in time, :math:`1 - |l| / (\text{lags} + 1)`, zero beyond `lags`.

    It is the autocorrelation of a moving average of lags + 1 equal terms.
    """
    return np.maximum(1.0 - np.abs(lag) / (lags + 1), 0.0)


def positions(store) -> np.ndarray:
    r"""Where the grid points are, in a Euclidean space.

    Latitude and longitude become points of a sphere (km); other coordinates stay themselves, and
    one with an attribute `period` becomes a circle of that circumference.

    Returns:
        An array with shape :math:`(n, k)`.
    """
    columns, sphere = [], {}
    for axis, (name, values) in enumerate(store.coords.items()):
        shape = [1] * len(store.grid)
        shape[axis] = -1
        x = np.broadcast_to(np.reshape(values, shape), store.grid).reshape(-1).astype(np.float64)
        attributes = store.coord_attrs.get(name, {})
        kind = attributes.get("standard_name", name)
        if kind in ("latitude", "lat", "longitude", "lon"):
            sphere[kind[:3]] = np.deg2rad(x)
        elif "period" in attributes:
            angle = 2 * np.pi * x / float(attributes["period"])
            radius = float(attributes["period"]) / (2 * np.pi)
            columns += [radius * np.cos(angle), radius * np.sin(angle)]
        else:
            columns.append(x)
    if set(sphere) == {"lat", "lon"}:
        lat, lon = sphere["lat"], sphere["lon"]
        xyz = (np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat))
        columns = [EARTH_KM * a for a in xyz] + columns
    else:
        columns = [EARTH_KM * a for a in sphere.values()] + columns
    return np.stack(columns, -1)


def factor(where: np.ndarray, length: float, taper: str, tolerance: float = 1e-3) -> np.ndarray:
    r"""Pivoted Cholesky factor of a taper between points.

    Arguments:
        where: Positions, with shape :math:`(n, k)`.
        length: Length of the taper, in the positions' units.
        taper: `gaussian` or `gaspari_cohn`.
        tolerance: Largest variance left out at any point before rows are scaled to norm 1.

    Returns:
        :math:`F` with shape :math:`(n, r)`, rows of norm 1, float32.
    """
    f = TAPERS[taper]
    n = len(where)
    left = np.ones(n)
    F = np.zeros((n, 64))
    r = 0
    while r < n and left.max() > tolerance:
        if r == F.shape[1]:
            F = np.concatenate([F, np.zeros_like(F)], 1)
        i = int(left.argmax())
        column = f(np.sqrt(((where - where[i]) ** 2).sum(1)) / length) - F[:, :r] @ F[i, :r]
        F[:, r] = column / np.sqrt(left[i])
        left = np.maximum(left - F[:, r] ** 2, 0.0)
        r += 1
    F = F[:, :r]
    return (F / np.sqrt((F**2).sum(1, keepdims=True))).astype(np.float32)
