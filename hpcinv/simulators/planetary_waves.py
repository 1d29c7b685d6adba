r"""A made-up atmosphere in the layout of ERA5: travelling planetary waves, in balance.

It stands in for a reanalysis that is not at hand, so that a study can be tried whole. Geopotential
is a mean state and waves of random amplitude, each with its own zonal and meridional number,
vertical structure and speed; everything else follows from it:

.. math:: f \, u = -\partial_y \Phi, \quad f \, v = \partial_x \Phi, \quad
    T = -\frac{1}{R} \frac{\partial \Phi}{\partial \ln p}

with :math:`f` kept away from zero at the equator. Names, units and the order of dimensions are
those of WeatherBench 2 (Rasp et al., 2024).
"""

from __future__ import annotations

__all__ = ["LEVELS", "SURFACE", "UPPER", "VERSION", "planetary_waves"]

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

R, RADIUS, OMEGA, GRAVITY = 287.05, 6.371e6, 7.292e-5, 9.80665
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)  # hPa
UPPER = {
    "geopotential": ("m**2 s**-2", "geopotential"),
    "temperature": ("K", "air_temperature"),
    "u_component_of_wind": ("m s**-1", "eastward_wind"),
    "v_component_of_wind": ("m s**-1", "northward_wind"),
    "specific_humidity": ("kg kg**-1", "specific_humidity"),
}
SURFACE = {
    "2m_temperature": ("K", "air_temperature"),
    "10m_u_component_of_wind": ("m s**-1", "eastward_wind"),
    "10m_v_component_of_wind": ("m s**-1", "northward_wind"),
    "mean_sea_level_pressure": ("Pa", "air_pressure_at_mean_sea_level"),
    "surface_pressure": ("Pa", "surface_air_pressure"),
    "total_column_water_vapour": ("kg m**-2", "atmosphere_mass_content_of_water_vapor"),
}
WAVES = 40
VERSION = 1  # of the numbers made: a kept sample of another version is not used


def planetary_waves(
    frames: int, grid: tuple[int, int] = (32, 64), hours: float = 6.0, seed: int = 0
) -> xr.Dataset:
    r"""Makes the atmosphere.

    Arguments:
        frames: The number of states.
        grid: The numbers of latitudes and longitudes.
        hours: The time between states.
        seed: The seed of the waves.

    Returns:
        The variables of :data:`UPPER`, with dimensions (time, level, longitude, latitude), and
        those of :data:`SURFACE`, without level.
    """
    import xarray as xr

    rng = np.random.default_rng(seed)
    rows, columns = grid
    lat = (np.arange(rows) + 0.5) * 180 / rows - 90
    lon = np.arange(columns) * 360 / columns
    t = np.arange(frames) * hours / 24  # days
    x = np.log(np.array(LEVELS) / 1000.0)[:, None, None]  # log-pressure, 0 at 1000 hPa
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)[:, None]
    year = 2 * np.pi * t / 365.25

    # Waves: a slow AR(1) amplitude times a travelling pattern, stronger in middle latitudes.
    m = rng.integers(1, 9, WAVES)
    n = rng.integers(1, 5, WAVES)
    speed = np.deg2rad(rng.uniform(-4, 14, WAVES))  # of the phase, radians of longitude a day
    phase = rng.uniform(0, 2 * np.pi, (3, WAVES))
    top = rng.uniform(0.2, 1.2, WAVES)
    keep = np.exp(-hours / 24 / 8)
    amplitude = np.empty((frames, WAVES))
    now = rng.standard_normal(WAVES)
    for k in range(frames):
        amplitude[k] = now
        now = keep * now + np.sqrt(1 - keep**2) * rng.standard_normal(WAVES)

    f = 2 * OMEGA * np.sin(phi)
    f = np.sign(f) * np.maximum(np.abs(f), 3e-5)
    out = {k: np.empty((frames, len(LEVELS), columns, rows), np.float32) for k in UPPER}
    flat = {k: np.empty((frames, columns, rows), np.float32) for k in SURFACE}
    for k in range(frames):
        # Of the mean state: 288 K at the surface, 6.5 K per kilometre, 40 K from equator to pole.
        lapse = 6.5e-3 * R / GRAVITY
        base = 288.0 - 40.0 * (np.sin(phi) - 0.25 * np.cos(year[k])) ** 2
        height = base * R / lapse * (1 - np.exp(lapse * x)) + 900.0
        height = np.broadcast_to(height, (len(LEVELS), columns, rows)).copy()
        warm = np.broadcast_to(base * np.exp(lapse * x), height.shape).copy()
        for w in range(WAVES):
            across = np.cos(phi) ** 2 * np.cos(n[w] * 2 * phi + phase[0, w])
            along = np.cos(m[w] * (lam - speed[w] * t[k]) + phase[1, w] + 0.4 * x)
            along_x = 0.4 * -np.sin(m[w] * (lam - speed[w] * t[k]) + phase[1, w] + 0.4 * x)
            size = 350.0 * amplitude[k, w] / np.sqrt(WAVES / 8)
            up, up_x = 1 - top[w] * x, -top[w]
            height += size * across * along * up
            warm -= size * across * (along * up_x + along_x * up) / R
        u = -np.gradient(height, phi, axis=-1) / (RADIUS * f)
        v = (
            (np.roll(height, -1, 1) - np.roll(height, 1, 1))
            / (2 * lam[1, 0])
            / (RADIUS * np.cos(phi) * f)
        )
        out["geopotential"][k], out["temperature"][k] = height, warm
        out["u_component_of_wind"][k], out["v_component_of_wind"][k] = u, v
        # Seven tenths of saturation (Bolton, 1980), less aloft.
        e = 611.2 * np.exp(17.67 * (warm - 273.15) / (warm - 29.65))
        p = 1e5 * np.exp(x)
        out["specific_humidity"][k] = 0.7 * np.exp(x) * 0.622 * np.minimum(e / p, 0.05)
        flat["2m_temperature"][k] = warm[-1]
        flat["10m_u_component_of_wind"][k] = 0.7 * u[-1]
        flat["10m_v_component_of_wind"][k] = 0.7 * v[-1]
        flat["mean_sea_level_pressure"][k] = 1e5 * np.exp(height[-1] / (R * warm[-1]))
        flat["surface_pressure"][k] = flat["mean_sea_level_pressure"][k] * (
            1 - 0.1 * np.exp(-(((lam - 1.6) / 0.5) ** 2) - ((phi - 0.6) / 0.3) ** 2)
        )  # one mountain
        flat["total_column_water_vapour"][k] = (
            np.trapezoid(out["specific_humidity"][k], 100.0 * np.array(LEVELS), axis=0) / GRAVITY
        )
    upper, surface = ("time", "level", "longitude", "latitude"), ("time", "longitude", "latitude")
    data = {}
    for names, arrays, dims in ((UPPER, out, upper), (SURFACE, flat, surface)):
        for name, (units, standard) in names.items():
            data[name] = (dims, arrays[name], {"units": units, "standard_name": standard})
    coords = {
        "time": ("time", hours * np.arange(frames), {
            "units": "hours since 2020-01-01", "calendar": "standard",
        }),
        "level": ("level", np.array(LEVELS), {"units": "hPa", "axis": "Z"}),
        "longitude": ("longitude", lon, {"units": "degrees_east"}),
        "latitude": ("latitude", lat, {"units": "degrees_north"}),
    }  # fmt: skip
    return xr.Dataset(data, coords, {"title": "Made-up planetary waves, not observations"})
