r"""Observation tables as netCDF-4 in the group layout of JEDI's IODA.

One `Location` for each place and moment, one variable in `ObsValue` and `ObsError` for each
channel; a channel that a location did not observe holds the fill value there. `EffectiveQC` holds
the flags of quality control. Names and the epoch of `dateTime` are those of the IODA conventions
in JEDI's documentation; the frame, the grid point and the time in the trajectory's own calendar
stand beside them.
"""

from __future__ import annotations

__all__ = ["load", "locations", "save", "write_table"]

import os
import re
from pathlib import Path

import numpy as np

from ..errors import BadInput
from ..io.atomic import sync
from .config import Forward
from .flags import REASONS
from .table import ObservationTable

FILL = float(np.float64(9.969209968386869e36))  # netCDF's own
UNSEEN = np.int32(-2147483647)  # netCDF's own for integers
UNKNOWN = np.int64(-9223372036854775806)  # the same for long ones
EPOCH = "seconds since 1970-01-01T00:00:00Z"
REAL = {"standard", "gregorian", "proleptic_gregorian"}


def save(table: ObservationTable, path: Path) -> str:
    r"""Writes a table atomically and returns its digest."""
    scratch = path.with_name(f".{path.name}.tmp")
    write_table(table, scratch)
    sync(scratch)
    os.replace(scratch, path)
    return table.digest


def write_table(table: ObservationTable, path: Path) -> None:
    r"""Writes a table to a file of any name."""
    import netCDF4

    first, location = locations(table)
    with netCDF4.Dataset(path, "w", format="NETCDF4") as f:
        f.setncatts(
            {
                "_ioda_layout": "ObsGroup",
                "_ioda_layout_version": np.int32(0),
                "Conventions": "CF-1.11",
                "channels": "\n".join(table.channels),
                "units": "\n".join(table.units),
                "digest": table.digest,
                "forward": table.forward.model_dump_json(),
            }
        )
        f.createDimension("Location", len(first))
        f.createVariable("Location", "i8", ("Location",))[:] = np.arange(len(first))
        meta = f.createGroup("MetaData")

        def put(name, data, **attributes):
            kind = str if data.dtype.kind == "U" else data.dtype.str[1:]
            v = meta.createVariable(name, kind, ("Location",), fill_value=False)
            v.setncatts(attributes)
            v[:] = data.astype(object) if kind is str else data

        put("latitude", table.lat[first], units="degrees_north", standard_name="latitude")
        put("longitude", table.lon[first], units="degrees_east", standard_name="longitude")
        cf = {"units": table.time_units or "1"}
        if " since " in table.time_units:
            cf |= {"calendar": table.calendar, "standard_name": "time"}
            if table.calendar in REAL and len(first):
                put("dateTime", _seconds(table, first), units=EPOCH, missing_value=UNKNOWN)
        put("time", table.time[first], **cf)
        put("stationIdentification", table.station[first])
        put("frame", table.frame[first], long_name="frame of the analysed trajectory", units="1")
        put("point", table.point[first], long_name="flat index of the grid point", units="1")
        if not np.isnan(table.level).all():
            put("level", table.level[first], long_name="vertical coordinate")
        groups = {"ObsValue": table.value, "ObsError": table.error, "EffectiveQC": table.flag}
        named = list(zip(table.variables, table.variable_units, strict=True))
        for group, column in groups.items():
            g = f.createGroup(group)
            for c, (name, units) in enumerate(named):
                rows = np.flatnonzero(table.channel == c)
                if not len(rows):
                    continue
                if group == "EffectiveQC":
                    v = g.createVariable(name, "i4", ("Location",), fill_value=UNSEEN)
                    v.setncatts(_flag_attributes())
                else:
                    v = g.createVariable(name, "f8", ("Location",), fill_value=FILL)
                    v.setncatts({"units": units, "coordinates": "latitude longitude"})
                full = np.full(len(first), v.getncattr("_FillValue"))
                full[location[rows]] = column[rows]
                v[:] = full


def load(path: Path) -> ObservationTable:
    r"""Reads a table; every problem is a `BadInput` naming the file and the variable."""
    import netCDF4

    mend = "Run the job that makes it again, with --fresh."
    if not path.exists():
        raise BadInput("no such observation table", path, "Run the observe job first.")
    try:
        with netCDF4.Dataset(path) as f:
            f.set_auto_mask(False)
            for group in ("MetaData", "ObsValue", "ObsError"):
                if group not in f.groups:
                    raise BadInput(
                        f"no group '{group}'", path, "The layout is IODA's: see ncdump -h."
                    )
            names = f.channels.split("\n")
            units = f.units.split("\n")
            forward = Forward.model_validate_json(getattr(f, "forward", "{}"))
            meta = {
                k: np.asarray(f["MetaData"][k][:])
                for k in ("frame", "point", "latitude", "longitude", "time")
            }
            meta["station"] = np.asarray(f["MetaData"]["stationIdentification"][:], np.str_)
            meta["level"] = np.full(len(meta["frame"]), np.nan)
            if "level" in f["MetaData"].variables:
                meta["level"] = np.asarray(f["MetaData"]["level"][:])
            clock = f["MetaData"]["time"]
            time_units = "" if clock.units == "1" else clock.units
            calendar = getattr(clock, "calendar", "standard")
            digest = f.digest
            parts: dict[str, list[np.ndarray]] = {
                "at": [],
                "channel": [],
                "value": [],
                "error": [],
                "flag": [],
            }
            flags = f.groups.get("EffectiveQC")
            for c, name in enumerate([*names, *(d.name for d in forward.derived)]):
                if name not in f["ObsValue"].variables:
                    continue
                value, error = f["ObsValue"][name][:], f["ObsError"][name][:]
                at = np.flatnonzero(value != FILL)
                parts["at"].append(at)
                parts["channel"].append(np.full(len(at), c))
                parts["value"].append(value[at])
                parts["error"].append(error[at])
                parts["flag"].append(np.zeros(len(at)) if flags is None else flags[name][:][at])
    except BadInput:  # a ValueError too
        raise
    except (OSError, KeyError, IndexError, AttributeError, RuntimeError, ValueError) as e:
        raise BadInput(f"cannot be read as an observation table ({e})", path, mend) from e
    joined = {k: np.concatenate(v) if v else np.zeros(0) for k, v in parts.items()}
    at = joined.pop("at").astype(np.int64)
    table = ObservationTable(
        frame=meta["frame"][at],
        point=meta["point"][at],
        lat=meta["latitude"][at],
        lon=meta["longitude"][at],
        time=meta["time"][at],
        station=meta["station"][at],
        channels=tuple(names),
        units=tuple(units),
        time_units=time_units,
        calendar=calendar,
        level=meta["level"][at],
        forward=forward,
        **joined,
    )
    if table.digest != digest:
        raise BadInput("the content differs from the digest in the file", path, mend)
    return table


def _flag_attributes() -> dict:
    return {
        "flag_values": np.array(list(REASONS), np.int32),
        "flag_meanings": " ".join(re.sub(r"[^\w.+@-]+", "_", r) for r in REASONS.values()),
    }


def locations(table: ObservationTable) -> tuple[np.ndarray, np.ndarray]:
    r"""Groups rows of one place and moment: the first row of each, and each row's location.

    Rows are sorted by all keys but the channel's last place, so equal ones are neighbours. A
    channel seen twice at one place opens a second location.
    """
    D = len(table)
    if D == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    new = np.ones(D, bool)
    new[1:] = table.channel[1:] <= table.channel[:-1]
    for name in ("frame", "station", "point", "time", "level", "lat", "lon"):
        a = getattr(table, name)
        differ = a[1:] != a[:-1]
        if a.dtype.kind == "f":
            differ &= ~(np.isnan(a[1:]) & np.isnan(a[:-1]))
        new[1:] |= differ
    return np.flatnonzero(new), np.cumsum(new) - 1


def _seconds(table: ObservationTable, rows: np.ndarray) -> np.ndarray:
    import cftime

    known = np.isfinite(table.time[rows])
    out = np.full(len(rows), UNKNOWN)
    times, inverse = np.unique(table.time[rows][known], return_inverse=True)
    if not len(times):
        return out
    dates = cftime.num2date(times, table.time_units, table.calendar)
    seconds = cftime.date2num(dates, EPOCH.replace("T00:00:00Z", " 00:00:00"), table.calendar)
    out[known] = np.rint(seconds).astype(np.int64)[inverse]
    return out
