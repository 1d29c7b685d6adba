r"""A state of a reanalysis on pressure levels, as one on sigma levels over flat ground.

Surface pressure is that of height zero: where the geopotential vanishes, linear in :math:`\ln p`
between the levels around it, or beyond the lowest two. Winds and temperature are interpolated
linearly in :math:`\ln p` to :math:`\sigma p_s`, constant beyond the file's levels; on another grid
all fields are first interpolated bilinearly.
"""

from __future__ import annotations

__all__ = ["sigma_state"]

from pathlib import Path

import numpy as np

from ..errors import BadInput
from ..io.fields import GriddedFile

NAMES = (
    ("u_component_of_wind", "v_component_of_wind", "temperature", "geopotential"),
    ("u", "v", "t", "z"),
)
PASCAL = ("Pa", "pascal", "pascals")


def sigma_state(
    path: Path | str, sigma: np.ndarray, lat: np.ndarray, lon: np.ndarray
) -> np.ndarray:
    r"""The first state of a file in the layout of ERA5 (netCDF, or anything xarray opens).

    Arguments:
        path: The file: u, v (m/s), temperature (K) and geopotential (m2 s-2) on pressure levels,
            named as WeatherBench or as ERA5 has them.
        sigma: Middles of the layers, from the highest to the lowest, K of them.
        lat, lon: Degrees of the rows and columns wanted.

    Returns:
        u, v, t of each level and the surface pressure in hPa, :math:`(3 K + 1, h, w)`, float32.

    Raises:
        BadInput: If a variable is missing or not on two pressure levels or more, if values are
            missing, or if the file does not cover the globe.
    """
    if not Path(path).exists():
        raise BadInput("no such file", path)
    try:
        f = GriddedFile(path, NAMES[0])
    except BadInput as first:
        try:
            f = GriddedFile(path, NAMES[1])
        except BadInput:
            raise first from None
    if "level" not in f.axes or list(f.coords) != ["lat", "lon"]:
        raise BadInput("its fields are not on levels, latitudes and longitudes", path)
    level = f.data[f.axes["level"]]
    p = np.asarray(level.values, np.float64)
    p = p / 100 if level.attrs.get("units") in PASCAL else p
    n = len(p)
    if n < 2 or len(f.channels) != 4 * n:
        raise BadInput(f"{n} levels, and {len(f.channels)} fields of 4 variables", path)
    x = f.read(0, 1)[0].astype(np.float64)
    if not np.isfinite(x).all():
        raise BadInput("its first state has missing values", path)
    x = _onto(x, f.coords["lat"], f.coords["lon"], lat, lon, path)
    order = np.argsort(p)
    log = np.log(p[order])
    u, v, t, phi = x.reshape(4, n, *x.shape[1:])[:, order]
    surface = _surface(phi, log)
    wanted = np.log(sigma)[:, None, None] + surface
    fields = [_interpolated(a, log, wanted) for a in (u, v, t)]
    return np.concatenate([*fields, np.exp(surface)[None]]).astype(np.float32)


def _surface(phi: np.ndarray, log: np.ndarray) -> np.ndarray:
    r"""ln p (hPa) where the geopotential (n, h, w), from the highest level down, vanishes."""
    above = (phi > 0).sum(0) - 1  # the lowest level above the ground
    k = np.clip(above, 0, len(log) - 2)
    a = np.take_along_axis(phi, k[None], 0)[0]
    b = np.take_along_axis(phi, k[None] + 1, 0)[0]
    return log[k] + a / (a - b) * (log[k + 1] - log[k])


def _interpolated(x: np.ndarray, log: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    r"""x (n, h, w) on levels of ln p, at others (K, h, w)."""
    at = np.clip(wanted, log[0], log[-1])
    k = np.clip(np.searchsorted(log, at, side="right") - 1, 0, len(log) - 2)
    share = (at - log[k]) / (log[k + 1] - log[k])
    return (1 - share) * np.take_along_axis(x, k, 0) + share * np.take_along_axis(x, k + 1, 0)


def _onto(x, lat, lon, to_lat, to_lon, path) -> np.ndarray:
    r"""Fields (C, h, w) on other rows and columns of the globe, bilinearly."""
    step = 360 / len(lon)
    if abs(np.ptp(lon) + step - 360) > 0.01 or np.ptp(lat) < 150:
        raise BadInput("it does not cover the globe", path)
    order = np.argsort(lat)
    x, lat = x[:, order], lat[order]
    i = np.clip(np.searchsorted(lat, to_lat, side="right") - 1, 0, len(lat) - 2)
    a = np.clip((to_lat - lat[i]) / (lat[i + 1] - lat[i]), 0, 1)[:, None]
    x = (1 - a) * x[:, i] + a * x[:, i + 1]
    order = np.argsort(lon % 360)
    x, lon = x[..., order], (lon % 360)[order]
    place = ((to_lon - lon[0]) % 360) / step
    j = np.floor(place + 1e-9).astype(int)
    b = np.clip(place - j, 0, 1)
    return (1 - b) * x[..., j % len(lon)] + b * x[..., (j + 1) % len(lon)]
