r"""The CF-1.11 shape of an analysis file: dimensions, coordinates, attributes, variables.

Dimensions, coordinates and global attributes are written with netCDF-C, whose files every tool
reads. The data variables are added with HDF5, because netCDF-C can neither make virtual datasets
nor keep from filling a variable that is about to be written; attaching the dimension scales makes
them ordinary netCDF-4 variables.
"""

from __future__ import annotations

__all__ = ["FILL", "Layout", "create_file", "define_variable"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import BadInput

FILL = np.float32(9.969209968386869e36)  # netCDF's own default for float
CHUNK = 8 << 20  # bytes: a multiple of every usual stripe
LIBVER = ("earliest", "v110")  # the newest format that netCDF-C, CDO and old HDF5 read


@dataclass
class Layout:
    r"""What an analysis holds, member by member.

    Attributes:
        channels, units: Names and units of the :math:`C` channels, one netCDF variable each.
        coords: Grid coordinates by name, in the order of the grid's axes.
        coord_attrs: Their CF attributes, written as they are.
        time, time_units, calendar: Time of every frame, with shape :math:`(L)`.
        mask: Where the grid is valid, with the grid's shape; elsewhere `_FillValue` is written.
        attributes: Global attributes (title, source of the data, seed ...).
        compression: Level of gzip, 1 to 9, after a shuffle of bytes; 0: none.
    """

    channels: Sequence[str]
    units: Sequence[str]
    coords: Mapping[str, np.ndarray]
    time: np.ndarray
    time_units: str
    calendar: str = "standard"
    coord_attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    standard_names: Sequence[str | None] | None = None
    long_names: Sequence[str | None] | None = None
    mask: np.ndarray | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    compression: int = 0

    def __post_init__(self) -> None:
        C = len(self.channels)
        if len(self.units) != C:
            raise BadInput(f"{C} channels but {len(self.units)} units", "analysis")
        self.standard_names = list(self.standard_names or [None] * C)
        self.long_names = list(self.long_names or [None] * C)
        taken = {"time", "realization", *self.coords}
        for name in self.channels:
            if name in taken or "/" in name or not name.strip():
                raise BadInput(
                    f"a channel cannot be named '{name}' in a netCDF file",
                    "analysis",
                    "Rename it where the data are imported.",
                )

    @property
    def length(self) -> int:
        return len(self.time)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(len(c) for c in self.coords.values())

    @property
    def shape(self) -> tuple[int, ...]:
        r"""Shape of one channel of one member, (time, *grid)."""
        return (self.length, *self.grid)

    @property
    def chunk(self) -> tuple[int, ...]:
        r"""Whole frames, about 8 MiB of them; large frames are cut along their first axis. If
        compressed, one frame: a chunk that is written bit by bit is compressed each time."""
        frame = 4 * int(np.prod(self.grid, dtype=np.int64))
        if frame <= CHUNK and self.compression:
            return (1, *self.grid)
        if frame <= CHUNK:
            return (max(1, min(self.length, CHUNK // max(frame, 1))), *self.grid)
        rows = max(1, self.grid[0] * CHUNK // frame)
        return (1, rows, *self.grid[1:])


def create_file(
    path: Path,
    layout: Layout,
    members: Sequence[int] | None,
    *,
    unlimited: bool = False,
    **extra: Any,
) -> None:
    r"""Writes dimensions, coordinates and global attributes; the data variables come after.

    Arguments:
        path: The file to make.
        layout: What it will hold.
        members: Realizations of a joined file, or None for the file of one member.
        unlimited: Make time the record dimension, which other tools may append to. What is
            virtual has the length that it has.
        extra: More global attributes.
    """
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as f:
        if members is not None:
            f.createDimension("realization", len(members))
            v = f.createVariable("realization", "i4", ("realization",))
            v.setncatts({"standard_name": "realization", "long_name": "ensemble member"})
            v.setncatts({"units": "1", "axis": "E"})
            v[:] = list(members)
        f.createDimension("time", None if unlimited else layout.length)
        v = f.createVariable("time", "f8", ("time",))
        v.setncatts({"standard_name": "time", "units": layout.time_units, "axis": "T"})
        if " since " in layout.time_units:
            v.setncatts({"calendar": layout.calendar})
        v[:] = layout.time
        for name, values in layout.coords.items():
            values = np.asarray(values)
            f.createDimension(name, len(values))
            kind = values.dtype if values.dtype.kind in "fiu" else np.dtype("f8")
            v = f.createVariable(name, kind, (name,))
            attrs = dict(layout.coord_attrs.get(name, {}))
            v.setncatts({k: a for k, a in attrs.items() if k != "_FillValue"})
            v[:] = values
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        f.setncatts(
            {
                "Conventions": "CF-1.11",
                "title": "Analysis",
                "source": f"hpcinv {__version__}",
                "history": f"{now} written by hpcinv {__version__}",
                **{k: _plain(a) for k, a in layout.attributes.items()},
                **extra,
                "channels": ",".join(layout.channels),
            }
        )


def define_variable(f: Any, layout: Layout, channel: int, *, sources: Any = None) -> Any:
    r"""Adds the variable of one channel to an open file.

    Arguments:
        f: An `h5py.File` made by `create_file`, opened for writing by this process alone.
        layout: What the file holds.
        channel: Number of the channel.
        sources: An `h5py.VirtualLayout` for a virtual variable. Without it the storage is
            allocated now and left unfilled: later opens by many ranks must not change the file.
    """
    import h5py

    name = layout.channels[channel]
    joined = sources is not None and len(sources.shape) > len(layout.shape)
    dims = [*(["realization"] if joined else []), "time", *layout.coords]
    if sources is not None:
        f.create_virtual_dataset(name, sources, fillvalue=FILL)
    else:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(layout.chunk)
        plist.set_fill_value(np.array(FILL))
        if layout.compression:  # by one process: space is allocated when its size is known
            plist.set_shuffle()
            plist.set_deflate(layout.compression)
        else:
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        most = (f["time"].maxshape[0] or h5py.h5s.UNLIMITED, *layout.grid)
        space = h5py.h5s.create_simple(layout.shape, most)
        h5py.h5d.create(f.id, name.encode(), h5py.h5t.IEEE_F32LE, space, plist)
    variable = f[name]
    for axis, dim in enumerate(dims):
        variable.dims[axis].attach_scale(f[dim])
    variable.attrs.create("_FillValue", np.array([FILL]))
    texts = {
        "standard_name": layout.standard_names[channel],
        "long_name": layout.long_names[channel],
        "units": layout.units[channel],
    }
    for key, text in texts.items():
        if text:
            # Fixed-length text is what netCDF calls NC_CHAR; older tools know no other kind.
            variable.attrs.create(key, np.bytes_(str(text).encode()))
    return variable


def _plain(value: Any) -> Any:
    r"""A value netCDF attributes can hold."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float | str | np.ndarray | np.number):
        return value
    return str(value)
