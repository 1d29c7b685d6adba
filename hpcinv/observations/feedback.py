r"""The feedback file: what became of every observation, in IODA's groups.

    MetaData, ObsValue, ObsError, EffectiveQC     as in the observation table
    hofx (Location, realization)                  H(x) of every member of the analysis
    hofx_background                               and of the background, where there is one
    oman, ombg                                    value − mean of either

A row that has no place on the grid has its flag and fill values. Ranks write the frames they
looked at, each a contiguous range of locations, into one file.
"""

from __future__ import annotations

__all__ = ["load", "placed", "see", "write"]

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..io.atomic import digest_array, roll, sync
from . import flags
from .ioda import FILL, locations, write_table
from .ioda import load as load_table
from .operators import Operator
from .table import ObservationTable

NOWHERE = (flags.OUTSIDE, flags.MASKED, flags.LATE)
ENSEMBLES = {"hofx": "oman", "hofx_background": "ombg"}


def placed(table: ObservationTable) -> np.ndarray:
    r"""Rows that see some state: those on the grid, in the domain and in the analysed frames."""
    return np.flatnonzero(~np.isin(table.flag, NOWHERE))


def see(
    table: ObservationTable,
    store: Any,
    start: int,
    ensemble: Any,
    frames: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    r"""H(x) of every member, for the placed rows of some frames.

    Arguments:
        table: All rows.
        store: The trajectory, for grid and clock; `start` is its frame beside frame 0.
        ensemble: Reader with `.members` and `.read(member, start, stop)`, physical units.
        frames: Frames, ascending; one is read at a time.
        progress: Called with each frame done.

    Returns:
        An array with shape :math:`(M, D)`, D the placed rows of the frames, in the table's order.
    """
    rows = placed(table)
    operator = Operator(table.select(rows), store, start)
    members = list(ensemble.members)

    def read(f: int) -> np.ndarray:
        return np.stack([ensemble.read(m, f, f + 1)[0] for m in members])

    parts = []
    for f in frames:
        if len(operator.rows([f])):
            parts.append(operator.see(read, [f]).reshape(len(members), -1))
        if progress is not None:
            progress(f)
    return np.concatenate(parts, 1) if parts else np.zeros((len(members), 0))


def write(
    path: Path,
    table: ObservationTable,
    world: Any,
    own: np.ndarray,
    ensembles: dict[str, np.ndarray],
    fence: Callable[[], None] | None = None,
) -> str:
    r"""Writes the file, atomically. Collective.

    Arguments:
        path: Its name.
        table: All rows, the same on every rank.
        world: The ranks.
        own: Rows of the table this rank looked at, a contiguous range of frames.
        ensembles: By name (`hofx`, `hofx_background`) what their members see, (M, len(own)).
        fence: Called by rank 0 before the file gets its name.

    Returns:
        Its digest, on every rank.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    sizes = {name: len(x) for name, x in ensembles.items()}
    if world.rank == 0:
        _create(scratch, table, sizes)
    world.barrier("feedback")
    _, location = locations(table)
    shared = world.size > 1 and _parallel(world)
    told = [(own, ensembles)]
    if world.size > 1 and not shared:
        told = world.gather((own, ensembles)) or []
    if shared or world.rank == 0:
        import h5py

        how = {"driver": "mpio", "comm": world.comm} if shared else {}
        with h5py.File(scratch, "r+", **how) as f:
            for rows, of in told:
                _fill(f, table, location, rows, of)
    digests = world.gather(
        [[int(r), digest_array(np.ascontiguousarray(x[:, k]))]
         for x in ensembles.values() for k, r in enumerate(own)]
    )  # fmt: skip
    digest = None
    if world.rank == 0:
        ordered = [d for _, d in sorted((r, d) for part in digests for r, d in part)]
        digest = roll([table.digest, *ordered])
        if fence is not None:
            fence()
        sync(scratch)
        os.replace(scratch, path)
    return world.broadcast(digest)


def _parallel(world: Any) -> bool:
    import h5py

    return getattr(world, "comm", None) is not None and bool(h5py.get_config().mpi)


def _create(scratch: Path, table: ObservationTable, sizes: dict[str, int]) -> None:
    import netCDF4

    write_table(table, scratch)
    with netCDF4.Dataset(scratch, "a") as f:
        for name, M in sizes.items():
            dim = "realization" if name == "hofx" else "realization_background"
            f.createDimension(dim, M)
            members, mean = f.createGroup(name), f.createGroup(ENSEMBLES[name])
            for c, variable in enumerate(table.variables):
                if not (table.channel == c).any():
                    continue
                units = table.variable_units[c]
                v = members.createVariable(variable, "f8", ("Location", dim), fill_value=FILL)
                v.setncatts({"units": units, "long_name": f"H(x) of each member, {variable}"})
                d = mean.createVariable(variable, "f8", ("Location",), fill_value=FILL)
                what = "analysis" if name == "hofx" else "background"
                d.setncatts({"units": units, "long_name": f"observation minus {what} mean"})
                v[:], d[:] = FILL, FILL  # allocated now: ranks then write independently


def _fill(f: Any, table, location, rows: np.ndarray, ensembles: dict[str, np.ndarray]) -> None:
    r"""Writes some rows: one range of locations of each variable, read and changed in memory."""
    if not len(rows):
        return
    lo, hi = int(location[rows[0]]), int(location[rows[-1]]) + 1
    for name, x in ensembles.items():
        departure = table.value[rows] - x.mean(0)
        for c, variable in enumerate(table.variables):
            at = np.flatnonzero(table.channel[rows] == c)
            if not len(at):
                continue
            where = location[rows[at]] - lo
            block = np.full((hi - lo, len(x)), FILL)
            block[where] = x[:, at].T
            f[name][variable][lo:hi] = block
            line = np.full(hi - lo, FILL)
            line[where] = departure[at]
            f[ENSEMBLES[name]][variable][lo:hi] = line


def load(path: Path | str) -> tuple[ObservationTable, dict[str, np.ndarray]]:
    r"""Reads a feedback file.

    Returns:
        The table, and by group (`hofx`, `oman`, ...) what stands there for each row, (D) or
        (D, M), NaN where it is a fill value.

    Raises:
        BadInput: If it is no feedback file.
    """
    import netCDF4

    path = Path(path)
    table = load_table(path)
    _, location = locations(table)
    out = {}
    with netCDF4.Dataset(path) as f:
        f.set_auto_mask(False)
        groups = [g for pair in ENSEMBLES.items() for g in pair if g in f.groups]
        if not groups:
            raise BadInput("no group 'hofx'", path, "This is a table, not a feedback file.")
        for g in groups:
            found = None
            for c, variable in enumerate(table.variables):
                if variable not in f[g].variables:
                    continue
                at = np.flatnonzero(table.channel == c)
                x = f[g][variable][:][location[at]]
                if found is None:
                    found = np.full((len(table), *x.shape[1:]), np.nan)
                found[at] = np.where(x == FILL, np.nan, x)
            out[g] = found
    return table, out
