r"""Where and when the networks of OSSEs look, frame by frame.

Each function gives the places of one frame of the truth as `Places`. What is drawn is a function
of the seed, the frame's number in the store and the platform, never of the frames asked for.
"""

from __future__ import annotations

__all__ = ["Places", "places"]

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..models.sphere import EARTH_RADIUS_KM
from . import orbit
from .stencils import nearest_points

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}


@dataclass
class Places:
    r"""Places of one frame: nearest grid points, degrees, moments, names; all of one length.

    `platform` numbers the station or platform, −1 where there is none.
    """

    point: np.ndarray
    lat: np.ndarray
    lon: np.ndarray
    time: np.ndarray
    station: np.ndarray
    platform: np.ndarray


def places(network: Any, truth: Any, seed: int) -> Callable[[int, np.random.Generator], Places]:
    r"""The function `(frame of the store, generator of that frame) -> Places` of a network.

    Raises:
        BadInput: If the network does not fit the grid or the clock of the truth.
    """
    valid = _valid(truth, network.surface)
    kind = network.network
    if kind == "random_points":
        if network.points > len(valid):
            raise BadInput(
                f"{network.points} points of a grid of {len(valid)} valid points",
                "points",
                f"Give at most {len(valid)}.",
            )
        return lambda t, rng: _at_points(truth, t, rng.permutation(valid)[: network.points])
    if kind == "grid":
        chosen = np.zeros(truth.grid, bool)
        chosen[tuple(slice(None, None, network.stride) for _ in truth.grid)] = True
        points = np.intersect1d(np.flatnonzero(chosen.reshape(-1)), valid)
        return lambda t, rng: _at_points(truth, t, points, points)
    domain = np.zeros(int(np.prod(truth.grid)), bool)
    domain[valid] = True
    if kind == "stations":
        names, lat, lon = _stations(network)
        point, inside = nearest_points(truth, lat, lon)
        inside &= domain[point]
        if not inside.all():
            raise BadInput(
                f"station '{names[int(np.argmin(inside))]}' is outside the domain",
                network.path or "places",
                "Leave it out.",
            )
        number = np.arange(len(names))
        return lambda t, rng: Places(
            point, lat, lon, np.full(len(names), truth.time[t]), names, number
        )
    step = _seconds(truth)
    if kind == "tracks":
        return _Fleet(network, truth, domain, seed, step)
    width = network.swath_km or orbit.swath(network.altitude_km, network.scan_angle)
    inclination = network.inclination
    if inclination is None:
        inclination = orbit.sun_synchronous(network.altitude_km)
    return partial(_swath, network, truth, domain, width, inclination)


def geography(truth: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Latitude and longitude of every grid point (flat), NaN where the grid has none."""
    found = {}
    for axis, (name, values) in enumerate(truth.coords.items()):
        kind = truth.coord_attrs.get(name, {}).get("standard_name", name)
        shape = [1] * len(truth.grid)
        shape[axis] = -1
        found[kind] = np.broadcast_to(values.reshape(shape), truth.grid).reshape(-1)
    nothing = np.full(int(np.prod(truth.grid)), np.nan)
    lat = found.get("latitude", found.get("lat", nothing))
    lon = found.get("longitude", found.get("lon", nothing))
    # A grid may run past the meridian it began at (20 to 377.5 degrees); tables do not.
    return lat.astype(np.float64), np.where(lon > 360, lon - 360, lon).astype(np.float64)


def _valid(truth: Any, surface: bool) -> np.ndarray:
    good = np.ones(truth.grid, bool) if truth.mask is None else np.asarray(truth.mask, bool).copy()
    if surface:
        flat = {"latitude", "lat", "longitude", "lon"}
        kinds = [truth.coord_attrs.get(n, {}).get("standard_name", n) for n in truth.coords]
        for axis, kind in enumerate(kinds):
            if kind not in flat:
                good[(slice(None),) * axis + (slice(1, None),)] = False
    return np.flatnonzero(good.reshape(-1))


def _at_points(truth, t: int, points: np.ndarray, platform: np.ndarray | None = None) -> Places:
    lat, lon = geography(truth)
    n = len(points)
    return Places(
        points, lat[points], lon[points], np.full(n, truth.time[t]), np.full(n, "", np.str_),
        np.full(n, -1) if platform is None else platform,
    )  # fmt: skip


def _stations(network: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if network.path is None:
        names = list(network.places)
        lat, lon = np.array(list(network.places.values()), float).T
    else:
        import pandas as pd

        path = Path(network.path)
        if not path.exists():
            raise BadInput("no such file", path)
        try:
            frame = pd.read_csv(path, dtype={"station": str})
            names = frame["station"].tolist()
            lat, lon = frame["lat"].to_numpy(float), frame["lon"].to_numpy(float)
        except (ValueError, KeyError, OSError) as e:
            raise BadInput(
                f"no list of stations ({e})", path, "It needs the columns station, lat and lon."
            ) from e
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise BadInput(
            f"two stations '{twice}'", network.path or "places", "Give each its own name."
        )
    bad = ~((np.abs(lat) <= 90) & (np.abs(lon) <= 360))
    if bad.any():
        k = int(np.argmax(bad))
        raise BadInput(
            f"station '{names[k]}' at latitude {lat[k]}, longitude {lon[k]}",
            network.path or "places",
            "Degrees north, -90 to 90, and east, -180 to 360.",
        )
    return np.array(names, np.str_), lat, lon


def _unit(truth: Any) -> float:
    unit = truth.time_units.split(" since ")[0].rstrip("s") + "s"
    if unit not in SECONDS or " since " not in truth.time_units:
        raise BadInput(
            f"'{truth.time_units}' is no clock to travel by",
            "observing: network",
            "Tracks and orbits need times in seconds, minutes, hours or days.",
        )
    return SECONDS[unit]


def _seconds(truth: Any) -> float:
    r"""Seconds from a frame to the next."""
    return float(np.median(np.diff(truth.time))) * _unit(truth)


class _Fleet:
    r"""Platforms that start at random valid points and go on from report to report.

    A leg that would leave the domain is not sailed: the platform turns back.
    """

    def __init__(self, network, truth, domain, seed: int, step: float) -> None:
        from ..diffusion.noise import generator

        self.network, self.truth, self.domain, self.step = network, truth, domain, step
        self.leg = network.speed * step / network.reports / (1e3 * EARTH_RADIUS_KM)
        lat, lon = geography(truth)
        home = np.flatnonzero(domain)
        self.rng = [generator(seed, "track", k) for k in range(network.platforms)]
        self.paths = []
        for r in self.rng:
            start = home[r.integers(len(home))]
            self.paths.append([(np.deg2rad(lat[start]), np.deg2rad(lon[start]))])
        self.course = [r.uniform(0, 2 * np.pi) for r in self.rng]

    def __call__(self, t: int, rng) -> Places:
        n, reports = self.network.platforms, self.network.reports
        for k in range(n):
            while len(self.paths[k]) < (t + 1) * reports:
                self._sail(k)
        part = slice(t * reports, (t + 1) * reports)
        where = np.rad2deg(np.array([path[part] for path in self.paths])).reshape(-1, 2)
        lat, lon = where[:, 0], (where[:, 1] + 180) % 360 - 180
        late = (np.arange(reports) - (reports - 1) / 2) / reports * self.step / _unit(self.truth)
        platform = np.repeat(np.arange(n), reports)
        names = np.array([f"platform-{k:03d}" for k in platform], np.str_)
        point, _ = nearest_points(self.truth, lat, lon)
        return Places(point, lat, lon, self.truth.time[t] + np.tile(late, n), names, platform)

    def _sail(self, k: int) -> None:
        turn = np.sqrt(1 - self.network.steadiness**2) * np.pi * self.rng[k].standard_normal()
        here = self.paths[k][-1]
        course = self.course[k] + turn
        a, b, after = _go(*here, course, self.leg)
        east = (np.rad2deg([b]) + 180) % 360 - 180
        point, inside = nearest_points(self.truth, np.rad2deg([a]), east)
        good = bool(inside[0] and self.domain[point[0]])
        self.paths[k].append((a, b) if good else here)
        self.course[k] = after if good else course + np.pi


def _go(lat: float, lon: float, course: float, leg: float) -> tuple[float, float, float]:
    r"""The end of a leg along a great circle, and the course there."""
    s = np.sin(lat) * np.cos(leg) + np.cos(lat) * np.sin(leg) * np.cos(course)
    a = np.arcsin(np.clip(s, -1, 1))
    y = np.sin(course) * np.sin(leg) * np.cos(lat)
    b = lon + np.arctan2(y, np.cos(leg) - np.sin(lat) * s)
    back = np.arctan2(
        np.sin(lon - b) * np.cos(lat),
        np.cos(a) * np.sin(lat) - np.sin(a) * np.cos(lat) * np.cos(lon - b),
    )
    return float(a), float(b), float(back + np.pi)


def _swath(network, truth, domain, width: float, inclination: float, t: int, rng) -> Places:
    r"""Footprints between half a frame before and half a frame after."""
    unit = _unit(truth)
    before = truth.time[t] - truth.time[t - 1] if t else truth.time[1] - truth.time[0]
    after = truth.time[t + 1] - truth.time[t] if t + 1 < len(truth.time) else before
    midnight = _midnight(truth)
    lat, lon, when = orbit.footprints(
        (truth.time[t] - before / 2) * unit + midnight,
        (truth.time[t] + after / 2) * unit + midnight,
        altitude_km=network.altitude_km,
        inclination=inclination,
        local_time=network.local_time,
        swath_km=width,
        spacing_km=network.spacing_km,
    )
    point, inside = nearest_points(truth, lat, lon)
    at = inside & domain[point]
    n = int(at.sum())
    return Places(
        point[at], lat[at], lon[at], (when[at] - midnight) / unit,
        np.full(n, "satellite", np.str_), np.zeros(n, np.int64),
    )  # fmt: skip


def _midnight(truth: Any) -> float:
    r"""Seconds from midnight to the epoch of the truth's clock."""
    import cftime

    d = cftime.num2date(0.0, truth.time_units, truth.calendar)
    return d.hour * 3600.0 + d.minute * 60.0 + d.second
