r"""Reading observations: rows of a file become rows of a table on a trajectory.

Each row goes to the nearest grid point and the nearest frame. Rows outside the domain or between
frames keep their place in the table, with a flag that says why they are not used. Rows of other
variables are counted. What cannot be understood is an error that names the file and the row.
"""

from __future__ import annotations

__all__ = ["read_points"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from . import flags
from .config import Forward
from .files import open_long
from .stencils import nearest_points
from .table import NEAREST, ObservationTable
from .units import conversion


def read_points(
    path: Path | str,
    store: Any,
    *,
    start: int,
    stop: int,
    columns: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    measured: Mapping[str, Any] | None = None,
    units: str | Mapping[str, str] | None = None,
    error: float | Mapping[str, float] | None = None,
    window: float | None = None,
    time_format: str | None = None,
    forward: Forward = NEAREST,
) -> tuple[ObservationTable, dict[str, int]]:
    r"""Reads a file of observations and maps it to the analysed frames of a trajectory.

    Arguments:
        path: See `hpcinv.observations.files`; a `.nc` file written by `ObservationTable.save` is
            read as it is.
        store: The trajectory: `.channels`, `.units`, `.grid`, `.coords`, `.coord_attrs`,
            `.time`, `.time_units`, `.calendar`, `.mask`; its axes are latitude and longitude.
        start, stop: Its frames that are analysed.
        columns: Names of the file's columns by ours, where they differ.
        variables: Channel of each of the file's variables; others are left out and counted.
            By default the names are the channels' own, and any other is an error.
        measured: For files with a column for each variable, see `config.Measured`.
        units: Units of the values where the file has no such column, one for all or by channel.
        error: Standard deviation for files without an error column, in the channels' units.
        window: Largest distance in time from a frame, in the trajectory's time units; half the
            spacing of frames by default.
        time_format: How times are written, for `strptime`; ISO 8601 by default.
        forward: How rows see the state, with the derived variables that they may be of.

    Returns:
        The checked table, and the number of rows that are not used, by reason.

    Raises:
        BadInput: For a file that cannot be read, a missing column, a value that is no number, an
            unknown variable, unit or time: with the file and the row.
    """
    path = Path(path)
    if path.suffix == ".nc" and _ours(path):
        table = ObservationTable.load(path)
        table.check(
            length=stop - start, grid=store.grid, channels=store.channels, units=store.units,
            mask=store.mask, where=path,
        )  # fmt: skip
        return table, {}
    notes: dict[str, int] = {}
    frame = open_long(path, dict(columns or {}), measured, notes)
    row = frame.index.to_numpy()
    derived = list(forward.derived)
    names = [*store.channels, *(d.name for d in derived)]
    their_units = [*store.units, *(d.units for d in derived)]
    channel = _channels(frame["variable"], names, variables, path, row)
    other = channel < 0
    if other.any():
        notes["another variable"] = int(other.sum())
        frame, channel, row = frame[~other], channel[~other], row[~other]
    n = len(frame)
    if n == 0:
        raise BadInput(f"no row can be used: {notes or 'the table is empty'}", path)
    value = _numbers(frame, "value", path, row)
    lat, lon = _numbers(frame, "lat", path, row), _numbers(frame, "lon", path, row)
    _within(np.abs(lat) <= 90, "latitude", lat, path, row, "Degrees north, -90 to 90.")
    _within(np.abs(lon) <= 360, "longitude", lon, path, row, "Degrees east, -180 to 360.")
    time = _times(frame["time"], store, path, row, time_format)
    flag = np.zeros(n, np.int32)
    if "flag" in frame:
        flag[_numbers(frame, "flag", path, row) != 0] = flags.SOURCE
    point, inside = nearest_points(store, lat, lon)
    if store.mask is not None:
        flag[~np.asarray(store.mask, bool).reshape(-1)[point]] = flags.MASKED
    k, near = _frames(store, time, start, stop, window)
    flag[~near], k = flags.LATE, np.where(near, k, -1)
    flag[~inside], point = flags.OUTSIDE, np.where(inside, point, -1)
    sigma = _errors(frame, channel, names, error, path, row)
    _convert(frame, channel, names, their_units, units, value, sigma, path, row)
    good = np.isfinite(sigma) & (sigma > 0)
    _within(good, "the error σ is", sigma, path, row, "Give a positive standard deviation.")
    table = ObservationTable(
        frame=k,
        channel=channel,
        point=point,
        value=value,
        error=sigma,
        lat=lat,
        lon=lon,
        time=time,
        station=_texts(frame["station"]) if "station" in frame else np.full(n, ""),
        channels=tuple(store.channels),
        units=tuple(store.units),
        time_units=store.time_units,
        calendar=store.calendar,
        flag=flag,
        level=_numbers(frame, "level", path, row) if "level" in frame else None,
        forward=forward,
    )
    for reason in np.unique(flag[flag > 0]):
        notes[flags.REASONS[int(reason)]] = int((flag == reason).sum())
    if not (flag == 0).any():
        raise BadInput(
            f"no row of {n} can be used: {notes}",
            path,
            "Compare the file's times and places with the trajectory's.",
        )
    table.check(length=stop - start, grid=store.grid, mask=store.mask, where=path)
    return table, notes


def _ours(path: Path) -> bool:
    r"""Whether a netCDF file is an observation table in IODA's groups."""
    import netCDF4

    if not path.exists():
        raise BadInput("no such file", path)
    try:
        with netCDF4.Dataset(path) as f:
            return "ObsValue" in f.groups
    except OSError as e:
        raise BadInput(f"cannot be read as netCDF ({e})", path, "Is the file whole?") from e


def _texts(column) -> np.ndarray:
    r"""A column as text, empty where there is nothing."""
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(str)


def _place(path: Path, row: int) -> str:
    return f"{path}, row {row}"


def _within(good: np.ndarray, what: str, x: np.ndarray, path: Path, row, mend: str) -> None:
    if not good.all():
        i = int(np.flatnonzero(~good)[0])
        also = int((~good).sum()) - 1
        more = f" (and {also} more rows)" if also else ""
        raise BadInput(f"{what} {x[i]}{more}", _place(path, row[i]), mend)


def _channels(column, names: list[str], variables, path: Path, row) -> np.ndarray:
    if variables is not None:
        for theirs, ours in variables.items():
            if ours not in names:
                raise BadInput(f"'{theirs}' is mapped to the unknown '{ours}'", "variables",
                               nearest(ours, names))  # fmt: skip
    of = {v: names.index(c) for v, c in (variables or {c: c for c in names}).items()}
    channel = column.map(of).fillna(-1).to_numpy(np.int64)
    if variables is None and (channel < 0).any():
        i = int(np.flatnonzero(channel < 0)[0])
        name = str(column.iloc[i])
        raise BadInput(f"unknown variable '{name}'", _place(path, row[i]), nearest(name, names))
    return channel


def _numbers(frame, name: str, path: Path, row) -> np.ndarray:
    import pandas as pd

    x = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, copy=True)
    bad = ~np.isfinite(x)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"{name} is '{frame[name].iloc[i]}', not a number", _place(path, row[i]),
            "Leave out rows that were not observed.",
        )  # fmt: skip
    return x


def _errors(frame, channel, names: list[str], error, path: Path, row) -> np.ndarray:
    if "error" in frame:
        return _numbers(frame, "error", path, row)
    if error is None:
        raise BadInput("no column 'error'", path, "Give σ of the observations as 'error'.")
    if isinstance(error, Mapping):
        missing = [names[c] for c in np.unique(channel) if names[c] not in error]
        if missing:
            raise BadInput(f"no error for '{missing[0]}'", "error", "Give σ for each variable.")
        return np.array([error.get(c, np.nan) for c in names], float)[channel]
    return np.full(len(channel), float(error))


def _convert(frame, channel, names, to, units, value, sigma, path: Path, row) -> None:
    r"""Converts values and their errors to the trajectory's units, in place."""
    if "units" in frame:
        given = _texts(frame["units"])
    elif units is not None:
        by = units if isinstance(units, Mapping) else dict.fromkeys(names, units)
        missing = [names[c] for c in np.unique(channel) if names[c] not in by]
        if missing:
            raise BadInput(f"no units for '{missing[0]}'", "units", "Give those of each variable.")
        given = np.array([by.get(c, "") for c in names])[channel]
    else:
        raise BadInput(
            "no column 'units'", path, "Say what the values are in: units: m s-1 in the job file."
        )
    codes, unique = _codes(given)
    key = channel * len(unique) + codes
    for pair in np.unique(key):
        c, u = divmod(int(pair), len(unique))
        rows = key == pair
        where = _place(path, row[int(np.flatnonzero(rows)[0])])
        if not unique[u].strip() and to[c] not in ("1", ""):
            raise BadInput(f"'{names[c]}' has no units", where, f"Write {to[c]} if it is that.")
        f, o = conversion(unique[u], to[c], where)
        value[rows] = f * value[rows] + o
        if "error" in frame:
            sigma[rows] *= f


def _codes(texts: np.ndarray) -> tuple[np.ndarray, list[str]]:
    import pandas as pd

    codes, unique = pd.factorize(texts)
    return codes, [str(u) for u in unique]


def _times(column, store, path: Path, row, form: str | None) -> np.ndarray:
    r"""Times as numbers of the store's units: dates are converted, numbers are taken as such."""
    import cftime
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return _numbers(column.to_frame("time"), "time", path, row)
    if " since " not in store.time_units:
        raise BadInput("dates in a trajectory without a calendar", path, "Give numbers.")
    dates = pd.to_datetime(column, errors="coerce", utc=True, format=form or "ISO8601")
    bad = dates.isna().to_numpy()
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"the time is '{column.iloc[i]}'", _place(path, row[i]),
            f"Write times as {form}." if form else "Write dates like 1991-01-31T12:00.",
        )  # fmt: skip
    unique, inverse = np.unique(dates.to_numpy("datetime64[s]"), return_inverse=True)
    try:
        when = [
            cftime.datetime(d.year, d.month, d.day, d.hour, d.minute, d.second,
                            calendar=store.calendar)
            for d in pd.DatetimeIndex(unique)
        ]  # fmt: skip
    except ValueError as e:
        raise BadInput(
            f"a date that the calendar '{store.calendar}' lacks ({e})",
            path,
            "Leave its rows out, or import the trajectory with the file's calendar.",
        ) from e
    return cftime.date2num(when, store.time_units, store.calendar)[inverse].astype(np.float64)


def _frames(store, time: np.ndarray, start: int, stop: int, window: float | None):
    t = np.asarray(store.time[start:stop], np.float64)
    if window is None:
        steps = np.diff(store.time)
        window = float(np.median(steps)) / 2 if len(steps) else np.inf
    k = np.searchsorted((t[1:] + t[:-1]) / 2, time)
    return k, np.abs(time - t[k]) <= window
