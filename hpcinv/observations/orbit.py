r"""Where a satellite on a circular orbit looks: the swath of its scanner on a round Earth.

The node of the orbit drifts by :math:`-\tfrac32 J_2 n (R/a)^2 \cos i`; a sun-synchronous orbit has
the inclination for which that is a turn a year (Vallado, Fundamentals of Astrodynamics, §11.4.1),
so that it crosses the equator at the same mean local time on every orbit.
"""

from __future__ import annotations

__all__ = ["footprints", "period", "sun_synchronous", "swath"]

import numpy as np

from ..models.sphere import EARTH_RADIUS_KM as EARTH_KM

EQUATOR_KM = 6378.137
GM = 398600.4418  # km³/s²
J2 = 1.08263e-3
DAY = 86400.0
YEAR = 365.2422 * DAY


def period(altitude_km: float) -> float:
    r"""Seconds of one revolution."""
    return 2 * np.pi * np.sqrt((EARTH_KM + altitude_km) ** 3 / GM)


def _drift(altitude_km: float) -> float:
    r"""Drift of the node of an orbit over the poles' meridian, rad/s, without its cos i."""
    a = EARTH_KM + altitude_km
    return -1.5 * J2 * np.sqrt(GM / a**3) * (EQUATOR_KM / a) ** 2


def sun_synchronous(altitude_km: float) -> float:
    r"""Inclination in degrees, beyond 90."""
    return float(np.rad2deg(np.arccos(2 * np.pi / YEAR / _drift(altitude_km))))


def swath(altitude_km: float, scan_angle: float) -> float:
    r"""Width in km of what a scan of half angle `scan_angle` (degrees) sees.

    Beyond the horizon, the swath ends there.
    """
    reach = (EARTH_KM + altitude_km) / EARTH_KM * np.sin(np.deg2rad(scan_angle))
    horizon = np.arccos(EARTH_KM / (EARTH_KM + altitude_km))
    if reach >= 1:
        return float(2 * EARTH_KM * horizon)
    return float(2 * EARTH_KM * (np.arcsin(reach) - np.deg2rad(scan_angle)))


def footprints(
    begin: float,
    end: float,
    *,
    altitude_km: float,
    inclination: float,
    local_time: float,
    swath_km: float,
    spacing_km: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Footprints between two moments, given in seconds of universal time from a midnight.

    Returns:
        Latitude and longitude in degrees and the moment in seconds, with shape :math:`(n)`. The
        footprints of an orbit do not depend on where the interval begins.
    """
    speed = 2 * np.pi * EARTH_KM / period(altitude_km)  # of the point below, km/s
    step = spacing_km / speed
    t = step * np.arange(np.ceil(begin / step), np.ceil(end / step))
    i = np.deg2rad(inclination)
    u = 2 * np.pi * t / period(altitude_km)
    # The node turns by the drift of its orbit, the Earth by a turn a sidereal day.
    node = np.deg2rad(15 * local_time) + _drift(altitude_km) * np.cos(i) * t
    node = node - (2 * np.pi / DAY + 2 * np.pi / YEAR) * t
    half = max(0, int(swath_km / 2 / spacing_km))
    across = spacing_km * np.arange(-half, half + 1) / EARTH_KM
    along = np.stack([np.cos(u), np.cos(i) * np.sin(u), np.sin(i) * np.sin(u)], -1)
    pole = np.array([0.0, -np.sin(i), np.cos(i)])  # of the orbit, to the left of the flight
    x = np.cos(across)[None, :, None] * along[:, None] + np.sin(across)[None, :, None] * pole
    lat = np.rad2deg(np.arcsin(np.clip(x[..., 2], -1, 1)))
    lon = np.rad2deg(np.arctan2(x[..., 1], x[..., 0]) + node[:, None])
    lon = (lon + 180) % 360 - 180
    when = np.broadcast_to(t[:, None], lat.shape)
    return lat.reshape(-1), lon.reshape(-1), when.reshape(-1)
