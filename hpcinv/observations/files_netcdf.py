r"""netCDF files of observations as tables: those in IODA's groups, and plain ones.

Text where numbers or times belong, times that are no dates, variables along other dimensions: each
is an error that names file and variable.
"""

from __future__ import annotations

__all__ = ["ioda_groups", "plain"]

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


def ioda_groups(path: Path) -> pd.DataFrame | None:
    r"""A file in IODA's groups as a long table; None for any other netCDF file.

    Units come from `ObsValue`, σ from `ObsError`, the source's verdict from `PreQC` (0 is good).
    Where the fill value stands, nothing was observed. A variable of several instrument channels
    becomes one for each, named by its number: brightnessTemperature_7.
    """
    import netCDF4
    import pandas as pd

    names = {"dateTime": "time", "latitude": "lat", "longitude": "lon",
             "stationIdentification": "station"}  # fmt: skip
    levels = ("pressure", "height", "depth", "level")
    try:
        with netCDF4.Dataset(path) as f:
            if "ObsValue" not in f.groups:
                return None
            meta = f.groups.get("MetaData")
            have = () if meta is None else tuple(meta.variables)
            missing = [n for n in list(names)[:3] if n not in have]
            if missing:
                raise BadInput(
                    f"no variable 'MetaData/{missing[0]}'",
                    path,
                    "The layout is IODA's: ncdump -h.",
                )
            names |= {n: "level" for n in levels[::-1] if n in have and n in levels}
            along = meta["latitude"].dimensions
            place = {}
            for theirs, ours in names.items():
                if theirs not in have:
                    continue
                v = meta[theirs]
                if ours == "time":
                    calendar = getattr(v, "calendar", "standard")
                    place[ours] = _times(v, calendar)
                elif ours == "station":
                    place[ours] = _texts(v)
                else:
                    place[ours] = _numbers(v)
                if v.dimensions[: len(along)] != along or place[ours].ndim != 1:
                    raise BadInput(
                        f"'{theirs}' is not along {', '.join(along) or 'a dimension'}", _name(v),
                        "Give one place, time and station for each location.",
                    )  # fmt: skip
            parts = []
            for v in f["ObsValue"].variables.values():
                for name, at in _instrument_channels(f, v, along):
                    part = pd.DataFrame(place)
                    part["value"] = _numbers(v)[at]
                    part["variable"], part["units"] = name, getattr(v, "units", "")
                    for group, column, nothing in (("ObsError", "error", np.nan),
                                                   ("PreQC", "flag", 0.0)):  # fmt: skip
                        if group in f.groups and v.name in f[group].variables:
                            w = f[group][v.name]
                            if w.dimensions != v.dimensions:
                                raise BadInput(
                                    f"'{v.name}' has other dimensions than its value", _name(w),
                                    "The layout is IODA's: ncdump -h.",
                                )  # fmt: skip
                            x = _numbers(w)[at]
                            part[column] = np.where(np.isnan(x), nothing, x)
                    parts.append(part[part["value"].notna()])
    except BadInput:
        raise
    except (OSError, RuntimeError, ValueError, AttributeError, IndexError) as e:
        raise BadInput(f"cannot be read as netCDF ({e})", path, "Is the file whole?") from e
    if not parts:
        raise BadInput("no variable in the group 'ObsValue'", path, "The layout is IODA's.")
    frame = pd.concat(parts)
    frame.attrs["calendar"] = _real(calendar)
    return frame


def _instrument_channels(f: Any, v: Any, along: tuple[str, ...]) -> list[tuple[str, Any]]:
    r"""Names and indices of what a variable of `ObsValue` holds along the locations."""
    if v.dimensions == along:
        return [(v.name, ...)]
    if len(v.dimensions) != 2 or v.dimensions[:1] != along:
        raise BadInput(
            f"'{v.name}' is along {', '.join(v.dimensions) or 'nothing'}", _name(v),
            f"Observations lie along {', '.join(along)}, and perhaps along channels.",
        )  # fmt: skip
    numbers = f["MetaData"].variables.get("sensorChannelNumber")
    if numbers is None:
        numbers = f.variables.get(v.dimensions[1])
    told = np.arange(v.shape[1]) + 1 if numbers is None else _numbers(numbers)
    return [(f"{v.name}_{n:g}", (slice(None), k)) for k, n in enumerate(told)]


def _name(v: Any) -> str:
    r"""Which file and variable it is."""
    group = v.group()
    return f"{group.filepath()}, {group.path.strip('/')}/{v.name}".replace(", /", ", ")


def _numbers(v: Any) -> np.ndarray:
    r"""A netCDF variable as numbers, NaN where nothing was observed.

    Raises:
        BadInput: If it is text.
    """
    if v.dtype is str or v.dtype.kind not in "fiu":
        raise BadInput(f"'{v.name}' is no variable of numbers", _name(v), "Write numbers there.")
    return np.ma.filled(np.ma.asarray(v[:], np.float64), np.nan)


def _texts(v: Any) -> np.ndarray:
    r"""A netCDF variable as text; characters along the last dimension are joined."""
    import netCDF4

    v.set_auto_mask(False)
    x = v[:]
    if v.dtype is not str and v.dtype.kind == "S":
        x = netCDF4.chartostring(x, "ascii") if np.ndim(x) else x
        return np.char.strip(np.char.strip(np.asarray(x).astype(str), "\0"))
    return np.asarray(x).astype(str)


def _times(v: Any, calendar: str) -> np.ndarray:
    r"""A netCDF variable as dates."""
    units = str(getattr(v, "units", ""))
    if " since " not in units:
        raise BadInput(
            f"'{v.name}' is in '{units}'" if units else f"'{v.name}' has no units", _name(v),
            "Give them as 'seconds since 1970-01-01T00:00:00Z'.",
        )  # fmt: skip
    _numbers(v)  # text is refused
    return _dates(v[:], units, calendar)


def plain(path: Path, wanted: set[str] | None, verdicts: set[str]) -> pd.DataFrame:
    r"""Variables as columns, those of fewer dimensions repeated along the others.

    Fill values are NaN, but in verdicts, which stay the integers that are compared.
    """
    import netCDF4
    import pandas as pd

    try:
        with netCDF4.Dataset(path) as f:
            names = [v for v in f.variables if wanted is None or v in wanted]
            dims: tuple[str, ...] = ()
            columns, units, calendar = {}, {}, "standard"
            for name in names:
                v = f[name]
                own = v.dimensions
                x = v[:]
                if v.dtype is str:
                    x = np.ma.filled(np.ma.asarray(x, object), "")
                elif v.dtype.kind == "S":
                    x, own = _texts(v), own[:-1]
                elif v.dtype.kind != "O":
                    unit = getattr(v, "units", "")
                    if " since " in unit:
                        calendar = getattr(v, "calendar", "standard")
                        x = _dates(x, unit, calendar)
                    elif np.ma.asarray(x).dtype.kind != "f" and (
                        name in verdicts or not np.ma.is_masked(x)
                    ):
                        if np.ma.is_masked(x):  # unsigned ones have no number to spare
                            x = np.ma.filled(x.astype(np.int64), np.iinfo(np.int64).min)
                        x = np.ma.filled(x)
                    else:  # packed numbers are unpacked by now
                        x = np.ma.filled(np.ma.asarray(x, np.float64), np.nan)
                    units[name] = unit
                columns[name] = (own, np.asarray(x))
                dims = own if len(own) > len(dims) else dims
            shape = tuple(len(f.dimensions[d]) for d in dims)
            out = {}
            for name, (own, x) in columns.items():
                if not set(own) <= set(dims):
                    continue
                index = [slice(None) if d in own else None for d in dims]
                out[name] = np.broadcast_to(x[tuple(index)], shape).reshape(-1)
    except BadInput:  # a ValueError too
        raise
    except (OSError, RuntimeError, ValueError) as e:
        raise BadInput(f"cannot be read as netCDF ({e})", path, "Is the file whole?") from e
    frame = pd.DataFrame(out)
    frame.attrs |= {"units": units, "calendar": _real(calendar)}
    return frame


def _real(calendar: str) -> str:
    r"""The calendar in which `_dates` tells its dates."""
    return "standard" if calendar == "julian" else calendar


def _dates(x: np.ndarray, units: str, calendar: str) -> np.ndarray:
    r"""Times of a file as datetime64: dates of its calendar, Julian ones of the real calendar."""
    import cftime

    good = ~np.ma.getmaskarray(x)
    out = np.full(x.shape, np.datetime64("NaT"), "datetime64[s]")
    unique, inverse = np.unique(np.asarray(x)[good], return_inverse=True)
    known = np.isfinite(unique) if unique.dtype.kind == "f" else np.ones(len(unique), bool)
    if not known.all():
        out[good] = _dates(np.ma.masked_invalid(np.asarray(x)[good]), units, calendar)
        return out
    try:
        dates = cftime.num2date(unique, units.replace("Z", ""), calendar)
    except (ValueError, KeyError, OverflowError, TypeError) as e:
        raise BadInput(
            f"no dates ({e})",
            f"times in '{units}' of the calendar '{calendar}'",
            "Give them as 'days since 2000-01-01', of a calendar of CF.",
        ) from e
    if calendar == "julian":
        dates = [d.change_calendar("standard") for d in dates]
    text = [d.strftime("%Y-%m-%dT%H:%M:%S") for d in dates]
    try:
        stamps = np.array(text, "datetime64[s]")
    except ValueError as e:
        raise BadInput(
            f"a date that only its own calendar has ({e})", f"times in the calendar '{calendar}'",
            "Leave its rows out, or write the times in another calendar.",
        ) from e  # fmt: skip
    if len(unique):
        out[good] = stamps[inverse]
    return out
