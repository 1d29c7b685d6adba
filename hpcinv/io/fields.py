r"""Gridded files through xarray: finding the axes, choosing variables, reading frames.

Names vary (latitude, lat, FNOCY; level, isobaricInhPa, plev), so axes are known by what CF says
of them, units and standard names, and by the names ERA5 and WeatherBench use.
"""

from __future__ import annotations

__all__ = ["GriddedFile"]

import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, nearest

NAMES = {
    "lat": ("lat", "latitude", "nav_lat"),
    "lon": ("lon", "longitude", "nav_lon"),
    "level": ("level", "lev", "plev", "pressure_level", "isobaricinhpa", "depth", "sigma"),
    "time": ("time", "valid_time"),
}
CF = {
    "lat": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "lon": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
}


def _role(name: str, attrs: dict[str, Any]) -> str | None:
    units, standard = str(attrs.get("units", "")).lower(), str(attrs.get("standard_name", ""))
    if units.startswith(("degrees_north", "degree_north")) or standard == "latitude":
        return "lat"
    if units.startswith(("degrees_east", "degree_east")) or standard == "longitude":
        return "lon"
    if " since " in units or standard == "time":
        return "time"
    if standard in ("air_pressure", "depth") or attrs.get("axis") == "Z":
        return "level"
    return next((role for role, names in NAMES.items() if name.lower() in names), None)


class GriddedFile:
    r"""A file (netCDF, Zarr, GRIB, anything xarray opens) seen as frames of channels on a grid.

    Arguments:
        path: The file, a Zarr folder, or the address of a Zarr store (`gs://...`).
        variables: Names to read; a variable on levels becomes one channel a level.
        levels: Levels to keep; all by default.
        region: Ranges of `lat` and `lon` to keep, inclusive.
        time: First and last date to keep, ISO 8601, inclusive.
        select: Labels along further dimensions, e.g. `{number: 0}`.
        engine: xarray's engine, where it cannot guess.
        options: Of the file system behind an address (fsspec), e.g. `{token: anon}`.
        static: Variables that do not change; of one with time, the first moment counts.

    Raises:
        BadInput: If the file cannot be opened, or something asked for is not in it.
    """

    def __init__(
        self,
        path: Path | str,
        variables: Sequence[str],
        levels: Sequence[float] | None = None,
        region: dict[str, tuple[float, float]] | None = None,
        time: tuple[str, str] | None = None,
        select: dict[str, float | str] | None = None,
        engine: str | None = None,
        options: dict[str, str | bool] | None = None,
        static: Sequence[str] = (),
    ) -> None:
        import xarray as xr

        far = "://" in str(path)
        self.path = str(path) if far else Path(path)
        if engine is None and (far or self.path.is_dir()):
            engine = "zarr"
        # cfgrib would write an index beside the user's file.
        how = {"backend_kwargs": {"indexpath": ""}} if engine == "cfgrib" else {}
        if far:
            how["storage_options"] = dict(options or {})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = xr.open_dataset(self.path, decode_times=False, engine=engine, **how)
        except FileNotFoundError as e:
            raise BadInput("no such file", self.path, "Give its path, or its address.") from e
        except Exception as e:  # every engine has its own errors for the same damage
            raise BadInput(
                f"the file cannot be opened ({type(e).__name__}: {e})",
                self.path,
                "Is the address right, and are the extra 'cloud' and a way out installed here?"
                if far
                else "Is it truncated, or does its format need an engine (netcdf4, zarr, cfgrib)?",
            ) from e
        for name in [*variables, *static]:
            if name not in data.data_vars:
                raise BadInput(
                    f"there is no variable '{name}'", self.path, nearest(name, data.data_vars)
                )
        data = self._select(data, [*variables, *static], select or {})
        roles = {d: _role(str(d), data[d].attrs if d in data.variables else {}) for d in data.dims}
        self.axes: dict[str, str] = {}
        for name in variables:
            for d in data[name].dims:
                role = roles[d] or str(d)
                if self.axes.setdefault(role, str(d)) != d:
                    raise BadInput(f"'{name}' has another {role} axis than the others", self.path)
        other = [r for r in self.axes if r not in NAMES]
        if other and {"lat", "lon"} <= set(self.axes):
            raise BadInput(
                f"dimension '{other[0]}' is neither time, level, latitude nor longitude",
                self.path,
                f"Choose one place on it: select: {{{other[0]}: ...}}.",
            )
        if "time" not in self.axes:
            raise BadInput(
                f"no time axis is found among {list(data[variables[0]].dims)}",
                self.path,
                "Its units must read like 'hours since 1980-01-01'.",
            )
        data = self._subset(data, region)
        self.time_units, self.calendar = self._clock(data)
        data = self._period(data, time)
        self.data = data
        self._channels(variables, levels)
        self.static = {name: self._still(name) for name in static}

    def _select(self, data, variables, select):
        for name, label in select.items():
            if name not in data.dims:
                raise BadInput(
                    f"'select' names no dimension: '{name}'", self.path, nearest(name, data.dims)
                )
            try:
                data = data.sel({name: label})
            except KeyError as e:
                raise BadInput(f"there is no {label!r} on '{name}'", self.path) from e
        data = data[variables]
        for name, c in data.coords.items():  # a single state has its time as a scalar
            if c.ndim == 0 and _role(str(name), c.attrs) == "time" and "time" not in data.dims:
                data = data.expand_dims(name)
                break
        return data

    def _subset(self, data, region):
        for role, (lo, hi) in (region or {}).items():
            if role not in self.axes:
                raise BadInput(f"the file has no {role} axis to take a region of", self.path)
            x = data[self.axes[role]].values
            if role == "lon":
                x = (x - lo) % 360 + lo
            keep = np.flatnonzero((x >= lo) & (x <= hi))
            if not len(keep):
                span = f"{x.min():g} to {x.max():g}"
                raise BadInput(
                    f"the region {role} {lo:g} to {hi:g} is empty",
                    self.path,
                    f"The file has {span}.",
                )
            order = keep[np.argsort(x[keep], kind="stable")] if role == "lon" else keep
            data = data.isel({self.axes[role]: order})
        return data

    def _clock(self, data) -> tuple[str, str]:
        attrs = data[self.axes["time"]].attrs
        if " since " not in attrs.get("units", ""):
            raise BadInput(f"the time axis '{self.axes['time']}' has no units", self.path)
        unit, _, origin = attrs["units"].partition(" since ")
        unit = unit.strip().lower().rstrip("s") + "s"  # CDO knows 'hours', not 'hour'
        return f"{unit} since {origin.strip()}", attrs.get("calendar", "standard").lower()

    def _period(self, data, period):
        import cftime

        t = np.asarray(data[self.axes["time"]].values, np.float64)
        if not np.all(np.diff(t) > 0):
            at = int(np.argmax(~(np.diff(t) > 0))) + 1
            raise BadInput(
                f"times do not increase at frame {at}", self.path, "Sort the file in time."
            )
        if period is None:
            return data
        lo, hi = (
            cftime.date2num(_date(p, end, self.calendar), self.time_units, self.calendar)
            for p, end in zip(period, (False, True), strict=True)
        )
        keep = np.flatnonzero((t >= lo) & (t <= hi))
        if not len(keep):
            raise BadInput(f"no frame lies between {period[0]} and {period[1]}", self.path)
        return data.isel({self.axes["time"]: keep})

    def _channels(self, variables, levels) -> None:
        level = self.axes.get("level")
        values = [] if level is None else self.data[level].values
        chosen = list(range(len(values)))
        if levels is not None:
            if level is None:
                raise BadInput("'levels' are asked for but there is no level axis", self.path)
            for v in levels:
                if not np.isclose(values, v).any():
                    known = ", ".join(f"{x:g}" for x in values)
                    raise BadInput(f"there is no level {v:g}", self.path, f"Known: {known}.")
            chosen = [int(np.argmin(np.abs(values - v))) for v in levels]
        self.channels: list[tuple[str, str, int | None]] = []  # (channel, variable, level index)
        for name in variables:
            if level is not None and level in self.data[name].dims:
                self.channels += [(f"{name}_{values[k]:g}", name, k) for k in chosen]
            else:
                self.channels.append((name, name, None))
        grid = [r for r in self.axes if r not in ("time", "level")]
        grid.sort(key=lambda r: {"lat": 0, "lon": 1}.get(r, -1))
        self.grid_axes = grid
        self.coords = {
            r: np.asarray(
                self.data[d].values
                if (d := self.axes[r]) in self.data.variables
                else np.arange(self.data.sizes[d]),
                np.float64,
            )
            for r in grid
        }
        self.coord_attrs = {r: dict(CF.get(r, {"long_name": r})) for r in grid}
        self.time = np.asarray(self.data[self.axes["time"]].values, np.float64)

    def _still(self, name: str) -> np.ndarray:
        r"""A field that does not change, on the grid."""
        v = self.data[name]
        if self.axes["time"] in v.dims:
            v = v.isel({self.axes["time"]: 0})
        order = [self.axes[r] for r in self.grid_axes]
        if set(v.dims) != set(order):
            raise BadInput(f"static variable '{name}' is not on the grid {order}", self.path)
        x = np.asarray(v.transpose(*order).values, np.float32)
        if not np.isfinite(x).all():
            raise BadInput(f"static variable '{name}' has missing values", self.path)
        return x

    def units(self, variable: str) -> str | None:
        return self.data[variable].attrs.get("units")

    def attribute(self, variable: str, name: str) -> str | None:
        return self.data[variable].attrs.get(name)

    def read(self, start: int, stop: int) -> np.ndarray:
        r"""Frames [start, stop) with shape :math:`(n, C, *grid)`, float32, NaN where missing.

        Raises:
            BadInput: If the file ends too early or cannot be decoded there.
        """
        out = np.empty(
            (stop - start, len(self.channels), *(len(c) for c in self.coords.values())), "f4"
        )
        order = [self.axes["time"], *(self.axes[r] for r in self.grid_axes)]
        for c, (_, name, k) in enumerate(self.channels):
            v = self.data[name].isel({self.axes["time"]: slice(start, stop)})
            if k is not None:
                v = v.isel({self.axes["level"]: k})
            try:
                out[:, c] = v.transpose(*order).values
            except Exception as e:  # every engine has its own errors for the same damage
                raise BadInput(
                    f"variable '{name}' cannot be read at frames {start} to {stop - 1} "
                    f"({type(e).__name__}: {e})",
                    self.path,
                    "Is the file truncated?",
                ) from e
        return out


def _date(text: str, end: bool, calendar: str):
    r"""`1982`, `1982-03` or a full ISO date; as an end, the last moment it covers."""
    import cftime

    try:
        date, _, clock = str(text).replace(" ", "T").partition("T")
        parts = [int(p) for p in date.split("-")] + [int(p) for p in clock.split(":") if p]
        first = cftime.datetime(*(parts + [1] * (3 - len(parts))), calendar=calendar)
        if not end or len(parts) > 3:
            return first
        if len(parts) == 3:
            nxt = first + timedelta(days=1)
        elif len(parts) == 2:
            y, m = (parts[0] + parts[1] // 12, parts[1] % 12 + 1)
            nxt = cftime.datetime(y, m, 1, calendar=calendar)
        else:
            nxt = cftime.datetime(parts[0] + 1, 1, 1, calendar=calendar)
        return nxt - timedelta(microseconds=1)
    except ValueError as e:
        raise BadInput(
            f"'{text}' is no date", None, "Write 1982, 1982-03 or 1982-03-15T06:00."
        ) from e
