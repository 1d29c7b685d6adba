r"""Reading observations from point tables: one row for each number observed.

CSV and Parquet files have the columns variable, value, time, lat and lon, and may have units,
error and station; other names are mapped. Files written by `ObservationTable.save` are read
as they are. Each row goes to the nearest grid point and the nearest frame; rows outside the
domain or between frames are left out and counted by reason. Nothing is dropped silently, and
what cannot be understood is an error that names the row.
"""

from __future__ import annotations

__all__ = ["read_points"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from .stencils import nearest_points
from .table import ObservationTable
from .units import conversion

NEEDED = ("variable", "value", "time", "lat", "lon")
OPTIONAL = ("units", "error", "station")


def read_points(
    path: Path | str,
    store: Any,
    *,
    start: int,
    stop: int,
    columns: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    error: float | Mapping[str, float] | None = None,
    window: float | None = None,
) -> tuple[ObservationTable, dict[str, int]]:
    r"""Reads a point table and maps it to the analysed frames of a trajectory.

    Arguments:
        path: A `.csv`, `.parquet` or `.nc` file.
        store: The trajectory: `.channels`, `.units`, `.grid`, `.coords`, `.coord_attrs`,
            `.time`, `.time_units`, `.calendar`, `.mask`; its axes are latitude and longitude.
        start, stop: Its frames that are analysed.
        columns: Names of the file's columns by ours, where they differ.
        variables: Channel of each of the file's variables; others are left out and counted.
            By default the names are the channels' own, and any other is an error.
        error: Standard deviation for files without an error column, in the channels' units.
        window: Largest distance in time from a frame, in the trajectory's time units; half the
            spacing of frames by default.

    Returns:
        The checked table, and the number of rows left out by reason.

    Raises:
        BadInput: For a file that cannot be read, a missing column, a value that is no number, an
            unknown variable, unit or time: with the file and the row.
    """
    path = Path(path)
    if path.suffix == ".nc":
        table = ObservationTable.load(path)
        table.check(
            length=stop - start, grid=store.grid, channels=store.channels, units=store.units,
            mask=store.mask, where=path,
        )  # fmt: skip
        return table, {}
    frame = _open(path, dict(columns or {}))
    n = len(frame)
    left_out: dict[str, int] = {}
    keep = np.ones(n, bool)

    def leave(rows: np.ndarray, why: str) -> None:
        count = int((keep & rows).sum())
        if count:
            left_out[why] = count
        keep[rows] = False

    channel = _channels(frame["variable"], store, variables, path)
    leave(channel < 0, "another variable")
    value = _numbers(frame, "value", path, keep)
    lat, lon = _numbers(frame, "lat", path, keep), _numbers(frame, "lon", path, keep)
    bad = keep & ~(np.abs(lat) <= 90)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(f"latitude {lat[row]}", _place(path, row), "Degrees north, -90 to 90.")
    time = _times(frame["time"], store, path, keep)
    point, inside = nearest_points(store, lat, lon)
    leave(~inside, "outside the grid")
    if store.mask is not None:
        leave(~np.asarray(store.mask, bool).reshape(-1)[point], "outside the domain (mask)")
    k, near = _frames(store, time, start, stop, window)
    leave(~near, "too far in time from any frame")
    sigma = _errors(frame, channel, store, error, path, keep)
    if "units" in frame:
        units = _texts(frame["units"])
        for pair in sorted({(int(c), u) for c, u in zip(channel[keep], units[keep], strict=True)}):
            rows = keep & (channel == pair[0]) & (units == pair[1])
            where = _place(path, int(np.flatnonzero(rows)[0]))
            f, o = conversion(pair[1], store.units[pair[0]], where)
            value[rows] = f * value[rows] + o
            if "error" in frame:
                sigma[rows] *= f
    station = _texts(frame["station"]) if "station" in frame else None
    table = ObservationTable(
        frame=k[keep],
        channel=channel[keep],
        point=point[keep],
        value=value[keep],
        error=sigma[keep],
        lat=lat[keep],
        lon=lon[keep],
        time=time[keep],
        station=np.full(int(keep.sum()), "") if station is None else station[keep],
        channels=tuple(store.channels),
        units=tuple(store.units),
        time_units=store.time_units,
        calendar=store.calendar,
    )
    if not len(table):
        raise BadInput(f"no row of {n} can be used: {left_out or 'the table is empty'}", path)
    table.check(length=stop - start, grid=store.grid, mask=store.mask, where=path)
    return table, left_out


def _texts(column) -> np.ndarray:
    r"""A column as text, empty where there is nothing."""
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(str)


def _place(path: Path, row: int) -> str:
    return f"{path}, row {row}"


def _open(path: Path, columns: dict[str, str]):
    import pandas as pd

    if not path.exists():
        raise BadInput("no such file", path)
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise BadInput(f"'{path.suffix}' is not read", path, "Give a .csv, .parquet or .nc file.")
    try:
        frame = readers[path.suffix](path)
    except ImportError as e:
        raise BadInput("Parquet needs pyarrow", path, "Run: pip install pyarrow") from e
    except (ValueError, OSError, UnicodeDecodeError) as e:
        raise BadInput(f"cannot be read as {path.suffix[1:]} ({e})", path) from e
    unknown = [ours for ours in columns if ours not in NEEDED + OPTIONAL]
    if unknown:
        raise BadInput(f"no column '{unknown[0]}'", "columns", nearest(unknown[0], NEEDED))
    for ours in NEEDED:
        theirs = columns.get(ours, ours)
        if theirs not in frame:
            raise BadInput(
                f"no column '{theirs}'", path,
                f"It has {', '.join(map(str, frame.columns))}: name the right one under columns.",
            )  # fmt: skip
    return frame.rename(columns={theirs: ours for ours, theirs in columns.items()})


def _channels(column, store, variables, path: Path) -> np.ndarray:
    names = list(store.channels)
    if variables is not None:
        for theirs, ours in variables.items():
            if ours not in names:
                raise BadInput(f"'{theirs}' is mapped to the unknown '{ours}'", "variables",
                               nearest(ours, names))  # fmt: skip
    of = {v: names.index(c) for v, c in (variables or {c: c for c in names}).items()}
    channel = column.map(of).fillna(-1).to_numpy(np.int64)
    if variables is None and (channel < 0).any():
        row = int(np.flatnonzero(channel < 0)[0])
        name = str(column.iloc[row])
        raise BadInput(f"unknown variable '{name}'", _place(path, row), nearest(name, names))
    return channel


def _numbers(frame, name: str, path: Path, keep: np.ndarray) -> np.ndarray:
    import pandas as pd

    x = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, copy=True)
    bad = keep & ~np.isfinite(x)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"{name} is '{frame[name].iloc[row]}', not a number", _place(path, row),
            "Leave out rows that were not observed.",
        )  # fmt: skip
    return x


def _errors(frame, channel, store, error, path: Path, keep: np.ndarray) -> np.ndarray:
    if "error" in frame:
        return _numbers(frame, "error", path, keep)
    if error is None:
        raise BadInput("no column 'error'", path, "Give σ of the observations as 'error'.")
    if isinstance(error, Mapping):
        missing = [store.channels[c] for c in np.unique(channel[keep])
                   if store.channels[c] not in error]  # fmt: skip
        if missing:
            raise BadInput(f"no error for '{missing[0]}'", "error", "Give σ for each variable.")
        by = np.array([error.get(c, np.nan) for c in store.channels], float)
        return by[np.maximum(channel, 0)]
    return np.full(len(channel), float(error))


def _times(column, store, path: Path, keep: np.ndarray) -> np.ndarray:
    r"""Times as numbers of the store's units: dates are converted, numbers are taken as such."""
    import cftime
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return _numbers(column.to_frame("time"), "time", path, keep)
    if " since " not in store.time_units:
        raise BadInput("dates in a trajectory without a calendar", path, "Give numbers.")
    dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    bad = keep & dates.isna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"the time is '{column.iloc[row]}'", _place(path, row),
            "Write dates like 1991-01-31T12:00.",
        )  # fmt: skip
    found = np.full(len(column), np.nan)
    unique, inverse = np.unique(dates.to_numpy("datetime64[s]"), return_inverse=True)
    good = ~np.isnat(unique)
    stamps = pd.DatetimeIndex(unique[good])
    try:
        when = [
            cftime.datetime(d.year, d.month, d.day, d.hour, d.minute, d.second,
                            calendar=store.calendar)
            for d in stamps
        ]  # fmt: skip
    except ValueError as e:
        raise BadInput(f"a date that the calendar '{store.calendar}' lacks ({e})", path) from e
    numbers = np.full(len(unique), np.nan)
    if when:
        numbers[good] = cftime.date2num(when, store.time_units, store.calendar)
    found[:] = numbers[inverse]
    return found


def _frames(store, time: np.ndarray, start: int, stop: int, window: float | None):
    t = np.asarray(store.time[start:stop], np.float64)
    if window is None:
        steps = np.diff(store.time)
        window = float(np.median(steps)) / 2 if len(steps) else np.inf
    k = np.searchsorted((t[1:] + t[:-1]) / 2, time)
    return k, np.abs(time - t[k]) <= window
