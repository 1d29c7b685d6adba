r"""Reading observations: rows of a file become rows of a table on a trajectory.

Each row goes to the nearest grid point and the nearest frame. Rows outside the domain (or beyond
the levels that a derived variable is interpolated between) or between frames keep their place in
the table, with a flag that says why they are not used; so do rows that lack a value, a place on
Earth, a time or a positive error, as long as impossible numbers are not the majority.
Rows of other variables are counted. Text where a number or a date belongs, an unknown variable or
unit, a missing column: what cannot be understood is an error that names the file and the row.
"""

from __future__ import annotations

__all__ = ["Notes", "read_points"]

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from . import flags
from .config import Forward
from .files import open_long
from .ioda import REAL
from .stencils import nearest_points
from .table import NEAREST, ObservationTable
from .units import conversion

# What a malformed row shows in a message, and how it is mended.
MENDS = {
    flags.PLACE: (
        ("lat", "lon"),
        "Latitudes are degrees north, -90 to 90, longitudes degrees east, -360 to 360; "
        "name the right columns under 'columns'.",
    ),
    flags.TIME: (("time",), "Give the time of every row."),
    flags.VALUE: (("value",), "Leave out rows that were not observed."),
    flags.ERROR: (("error",), "Give a positive standard deviation in the value's units."),
}


class Notes(dict[str, int]):
    r"""How many rows are not used, by reason.

    Attributes:
        first: File and row of the first of each reason, with what is wrong there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}


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
) -> tuple[ObservationTable, Notes]:
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
            unknown variable, unit or time, and where more than half of the rows are impossible:
            with the file and the row.
    """
    path = Path(path)
    if path.suffix == ".nc" and _ours(path):
        table = ObservationTable.load(path)
        table.check(
            length=stop - start, grid=store.grid, channels=store.channels, units=store.units,
            mask=store.mask, where=path,
        )  # fmt: skip
        return table, Notes()
    notes = Notes()
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
        raise BadInput(
            f"no row can be used: {dict(notes) or 'the table is empty'}",
            path,
            "A row for each number observed, of a variable that the trajectory has.",
        )
    value = _numbers(frame, "value", path, row)
    lat, lon = _numbers(frame, "lat", path, row), _numbers(frame, "lon", path, row)
    theirs = frame.attrs.get("calendar", "standard")
    if theirs not in REAL and theirs != store.calendar:
        raise BadInput(
            f"times in the calendar '{theirs}' where the trajectory's is '{store.calendar}'",
            f"{path}, variable 'time'",
            "Convert them, for instance with xarray's convert_calendar.",
        )
    time = _times(frame["time"], store, path, row, time_format)
    sigma = _errors(frame, channel, names, error, path, row)
    _convert(frame, channel, names, their_units, units, value, sigma, path, row)
    flag = np.zeros(n, np.int32)
    point, inside = nearest_points(store, lat, lon)
    if store.mask is not None:
        flag[~np.asarray(store.mask, bool).reshape(-1)[point]] = flags.MASKED
    k, near = _frames(store, time, start, stop, window)
    flag[~near], k = flags.LATE, np.where(near, k, -1)
    flag[~inside], point = flags.OUTSIDE, np.where(inside, point, -1)
    level = _numbers(frame, "level", path, row) if "level" in frame else None
    if level is not None:
        flag[_beyond(level, channel - len(store.channels), derived)] = flags.OUTSIDE
    if "flag" in frame:
        flag[_numbers(frame, "flag", path, row) != 0] = flags.SOURCE
    bad = flags.malformed(value, sigma, lat, lon, time)
    flag = np.where(bad > 0, bad, flag)
    point = np.where(bad == flags.PLACE, -1, point)
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
        level=level,
        forward=forward,
    )
    columns = SimpleNamespace(value=value, error=sigma, lat=lat, lon=lon, time=time)
    _count(notes, flag, columns, path, row)
    if not (flag == 0).any():
        raise BadInput(
            f"no row of {n} can be used: {dict(notes)}",
            path,
            "Compare the file's times and places with the trajectory's.",
        )
    table.check(length=stop - start, grid=store.grid, mask=store.mask, where=path)
    return table, notes


def _beyond(level: np.ndarray, which: np.ndarray, derived: list[Any]) -> np.ndarray:
    r"""Rows above or below the levels that their variable is interpolated between."""
    out = np.zeros(len(level), bool)
    for i, d in enumerate(derived):
        if d.operator == "level":
            within = (level >= min(d.levels)) & (level <= max(d.levels))
            out |= (which == i) & ~within
    return out


def _ours(path: Path) -> bool:
    r"""Whether a netCDF file is an observation table that `ObservationTable.save` wrote."""
    import netCDF4

    if not path.exists():
        raise BadInput("no such file", path, "Check the path.")
    try:
        with netCDF4.Dataset(path) as f:
            return "ObsValue" in f.groups and "digest" in f.ncattrs()
    except OSError as e:
        raise BadInput(f"cannot be read as netCDF ({e})", path, "Is the file whole?") from e


def _texts(column) -> np.ndarray:
    r"""A column as text, empty where there is nothing."""
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(str)


def _place(path: Path, row: int) -> str:
    return f"{path}, row {row}"


def _count(notes: Notes, flag: np.ndarray, columns: Any, path: Path, row: np.ndarray) -> None:
    r"""Counts the flags; refuses a file of which more than half of the rows cannot be right.

    Rows that merely lack a number may be many: archives hold stations that nobody has placed.
    """
    for reason in np.unique(flag[flag > 0]):
        rows = np.flatnonzero(flag == reason)
        i, why = rows[0], flags.REASONS[int(reason)]
        told = ""
        if reason in MENDS:
            names = MENDS[int(reason)][0]
            told = ", " + ", ".join(f"{c} {getattr(columns, c)[i]:g}" for c in names)
        notes[why] = len(rows)
        notes.first[why] = f"{_place(path, row[i])}{told}"
    bad = np.zeros(len(flag), bool)
    for reason, (names, _) in MENDS.items():
        told = np.isfinite([getattr(columns, c) for c in names]).all(0)
        bad |= (flag == reason) & told
    if 2 * bad.sum() > len(flag):
        worst = int(np.bincount(flag[bad]).argmax())
        why = flags.REASONS[worst]
        raise BadInput(
            f"{int(bad.sum())} of {len(flag)} rows cannot be right, most of them: {why}",
            notes.first[why],
            MENDS[worst][1],
        )


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
    r"""A column of numbers, NaN where it is empty; text among them is an error."""
    import pandas as pd

    try:
        x = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, copy=True)
    except OverflowError:  # more digits than a number has
        x = np.array([_number(v) for v in frame[name]])
    text = np.isnan(x) & frame[name].notna().to_numpy()
    if text.any():
        i = int(np.flatnonzero(text)[0])
        raise BadInput(
            f"{name} is '{frame[name].iloc[i]}', not a number", _place(path, row[i]),
            "Leave the place empty where nothing was observed.",
        )  # fmt: skip
    return x


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _errors(frame, channel, names: list[str], error, path: Path, row) -> np.ndarray:
    given = list(error.values()) if isinstance(error, Mapping) else [error]
    if error is not None and not all(0 < e < np.inf for e in given):
        raise BadInput(f"an error σ of {error}", "error", "Give positive standard deviations.")
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
    bad = dates.isna().to_numpy() & column.notna().to_numpy()
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"the time is '{column.iloc[i]}'", _place(path, row[i]),
            f"Write times as {form}." if form else "Write dates like 1991-01-31T12:00.",
        )  # fmt: skip
    known = dates.notna().to_numpy()
    out = np.full(len(column), np.nan)
    unique, inverse = np.unique(dates.to_numpy("datetime64[s]")[known], return_inverse=True)
    try:
        when = [
            cftime.datetime(d.year, d.month, d.day, d.hour, d.minute, d.second,
                            calendar=store.calendar)
            for d in pd.DatetimeIndex(unique)
        ]  # fmt: skip
        numbers = np.zeros(0)
        if when:
            numbers = cftime.date2num(when, store.time_units, store.calendar)
    except ValueError as e:
        raise BadInput(
            f"a date that the calendar '{store.calendar}' lacks ({e})",
            path,
            "Leave its rows out, or import the trajectory with the file's calendar.",
        ) from e
    out[known] = np.asarray(numbers, np.float64)[inverse]
    return out


def _frames(store, time: np.ndarray, start: int, stop: int, window: float | None):
    t = np.asarray(store.time[start:stop], np.float64)
    if window is None:
        steps = np.diff(store.time)
        window = float(np.median(steps)) / 2 if len(steps) else np.inf
    k = np.searchsorted((t[1:] + t[:-1]) / 2, time)
    return k, np.abs(time - t[k]) <= window
