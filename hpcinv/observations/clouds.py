r"""Clouds: coherent fields that hide what a network would have seen.

A place is hidden where a Gaussian field f(x, t) of mean 0 and variance 1 is below the quantile of
the share of the sky that is covered. With N random waves (Rahimi and Recht 2007),

.. math:: f(x, t) = N^{-1/2} \sum_i a_i(t) \cos(k_i \cdot x) + b_i(t) \sin(k_i \cdot x),
          \quad k_i \sim N(0, L^{-2} I)

its covariance is :math:`e^{-r^2 / 2 L^2}` in the distance r through the earth. The amplitudes
remember: their correlation falls by `memory` from frame to frame. Every draw is keyed by the seed
and the frame, and the field has a value at any place: no grid, and no order of frames.
"""

from __future__ import annotations

__all__ = ["hidden"]

import math
from statistics import NormalDist

import numpy as np

from ..errors import BadInput
from ..models.sphere import EARTH_RADIUS_KM, unit_vectors
from .networks_config import Clouds

WAVES = 256


def hidden(
    clouds: Clouds, lat: np.ndarray, lon: np.ndarray, frame: int, *, seed: int
) -> np.ndarray:
    r"""Whether places are under clouds.

    Arguments:
        clouds: What they are like.
        lat, lon: Degrees, with shape :math:`(n)`.
        frame: Number of the frame in the truth's store.
        seed: Key of the draws.

    Returns:
        Flags with shape :math:`(n)`.

    Raises:
        BadInput: Where a place has no latitude and longitude.
    """
    from ..diffusion.noise import generator

    if np.isnan(lat).any():
        raise BadInput(
            "clouds over a grid without latitudes and longitudes",
            "observing: clouds",
            "Leave them out; 'missing' and 'points' need no geography.",
        )
    k = generator(seed, "waves of clouds").standard_normal((WAVES, 3)) / clouds.length_km
    rho = clouds.memory
    lags = int(np.ceil(np.log(1e-6) / np.log(rho))) + 1 if rho else 1
    a = np.zeros((2, WAVES))
    for lag in range(lags):
        fresh = generator(seed, "clouds", frame - lag).standard_normal((2, WAVES))
        a += math.sqrt(1 - rho**2) * rho**lag * fresh
    phase = EARTH_RADIUS_KM * unit_vectors(lat, lon) @ k.T
    field = (np.cos(phase) @ a[0] + np.sin(phase) @ a[1]) / math.sqrt(WAVES)
    return field < NormalDist().inv_cdf(clouds.share)
