r"""Smooth isotropic Gaussian random fields on the sphere.

They are the weights of everything that is localised by distance: the mixing of training windows
(:mod:`hpcinv.training.augmentation`) and the sampled decoder error
(:mod:`hpcinv.models.decoder_error`). A field is a finite sum of real spherical harmonics, so that
its correlation function is known in closed form and covariances can be localised by exactly the
function that the samples have.
"""

from __future__ import annotations

import numpy as np

EARTH_RADIUS_KM = 6371.0
DEGREE_LIMIT = 128


def spectrum(length_km: float, tolerance: float = 1e-3) -> np.ndarray:
    r"""Power of each harmonic degree for a Gaussian-shaped correlation on the sphere.

    The heat kernel :math:`s_l = \exp(-l (l + 1) (L / R)^2 / 2)` is the sphere's counterpart of
    the flat :math:`\exp(-d^2 / 2 L^2)` (Weaver and Courtier, 2001), cut where the power summed
    over a degree's orders falls below `tolerance` of the total.

    Arguments:
        length_km: The length :math:`L` of the correlation, in kilometres.
        tolerance: The relative power below which a degree is left out.

    Returns:
        The powers :math:`(2 l + 1) s_l`, summing to one, with shape :math:`(l_\max + 1)`.
    """
    if not length_km > 0:
        raise ValueError(f"a localisation length must be positive, got {length_km} km")
    degree = np.arange(DEGREE_LIMIT + 1)
    scale = length_km / EARTH_RADIUS_KM
    power = (2 * degree + 1) * np.exp(-degree * (degree + 1) * scale**2 / 2)
    power /= power.sum()
    last = int(np.nonzero(power >= tolerance)[0].max())
    power = power[: last + 1]
    return power / power.sum()


def correlation(cosine: np.ndarray, length_km: float) -> np.ndarray:
    r"""Correlation of :class:`SmoothFields` between points whose angle has the given cosine.

    .. math:: c(\gamma) = \sum_l p_l P_l(\cos \gamma)

    Arguments:
        cosine: Cosines of the angles between points, with any shape.
        length_km: The length of the correlation, in kilometres.

    Returns:
        The correlations, with the shape of `cosine`.
    """
    power = spectrum(length_km)
    return np.polynomial.legendre.legval(np.clip(cosine, -1.0, 1.0), power)


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    r"""Positions on the unit sphere, shape (n, 3), of points given in degrees, shapes (n,)."""
    lat, lon = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def legendre(degree: int, sine: np.ndarray) -> np.ndarray:
    r"""Associated Legendre functions, normalised so that the harmonics have unit mean square.

    Stable three-term recurrences in the degree (Holmes and Featherstone, 2002, geodesy's
    :math:`4\pi` normalisation).

    Arguments:
        degree: The largest degree :math:`l_\max`.
        sine: Sines of the latitudes, with shape :math:`(n)`.

    Returns:
        The functions :math:`P_{lm}`, shape :math:`(l_\max + 1, l_\max + 1, n)`; zero for m > l.
    """
    cosine = np.sqrt(np.clip(1 - sine**2, 0, None))
    p = np.zeros((degree + 1, degree + 1, len(sine)))
    p[0, 0] = 1.0
    for m in range(1, degree + 1):
        factor = np.sqrt(3.0) if m == 1 else np.sqrt((2 * m + 1) / (2 * m))
        p[m, m] = factor * cosine * p[m - 1, m - 1]
    for m in range(degree + 1):
        for n in range(m + 1, degree + 1):
            a = np.sqrt((2 * n - 1) * (2 * n + 1) / ((n - m) * (n + m)))
            p[n, m] = a * sine * p[n - 1, m]
            if n > m + 1:
                b = (2 * n + 1) * (n + m - 1) * (n - m - 1)
                b /= (n - m) * (n + m) * (2 * n - 3)
                p[n, m] -= np.sqrt(b) * p[n - 2, m]
    return p


class SmoothFields:
    r"""Draws unit-variance Gaussian fields with correlation :func:`correlation` on a lat-lon grid.

    Arguments:
        lat: Latitudes of the rows in degrees, with shape :math:`(H)`.
        lon: Longitudes of the columns in degrees, with shape :math:`(W)`.
        length_km: The length of the correlation, in kilometres.
    """

    def __init__(self, lat: np.ndarray, lon: np.ndarray, length_km: float) -> None:
        lat, lon = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
        power = spectrum(length_km)
        degree = len(power) - 1
        p = legendre(degree, np.sin(np.deg2rad(lat)))
        azimuth = np.deg2rad(lon)
        rows, columns = [], []
        for n in range(degree + 1):
            scale = np.sqrt(power[n] / (2 * n + 1))
            for m in range(n + 1):
                rows.append(scale * p[n, m])
                columns.append(np.cos(m * azimuth))
                if m:
                    rows.append(scale * p[n, m])
                    columns.append(np.sin(m * azimuth))
        self.rows = np.stack(rows).astype(np.float32)
        self.columns = np.stack(columns).astype(np.float32)
        self.grid = (len(lat), len(lon))

    @property
    def basis(self) -> np.ndarray:
        r"""The harmonics scaled by the square root of their power, with shape :math:`(b, H W)`."""
        return (self.rows[:, :, None] * self.columns[:, None, :]).reshape(len(self.rows), -1)

    def draw(self, number: int, generator: np.random.Generator) -> np.ndarray:
        r"""Returns `number` independent fields, float32, with shape :math:`(n, H, W)`."""
        noise = generator.standard_normal((number, len(self.rows)), dtype=np.float32)
        # Separable in latitude and longitude: (n, b) x (b, H) x (b, W) without the full basis.
        return np.matmul((noise[:, :, None] * self.rows).transpose(0, 2, 1), self.columns)
