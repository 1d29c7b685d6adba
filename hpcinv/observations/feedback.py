r"""The feedback file: what became of every observation, in IODA's groups.

    MetaData, ObsValue, ObsError, EffectiveQC     as in the observation table
    hofx (Location, realization)                  H(x) of every member of the analysis
    hofx_background                               and of the background, where there is one
    oman, ombg                                    value − mean of either

A row that has no place on the grid has its flag and fill values. Ranks write the frames they
look at, one by one, each a contiguous range of locations, into one file.
"""

from __future__ import annotations

__all__ = ["Seen", "Writer", "load", "placed", "see"]

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput
from ..io.atomic import digest_array, roll, sync
from ..waiting import at
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


class Seen:
    r"""H(x) of an ensemble, frame by frame.

    Arguments:
        table: All rows.
        store: The trajectory, for grid and clock; `start` is its frame beside frame 0.
        ensemble: Reader with `.members` and `.read(member, start, stop)`, physical units; one
            member's frame is held at a time.
        length: Frames that it has, for interpolation in time.
    """

    def __init__(
        self, table: ObservationTable, store: Any, start: int, ensemble: Any,
        length: int | None = None,
    ) -> None:  # fmt: skip
        self._rows = placed(table)
        self._operator = Operator(table.select(self._rows), store, start, length)
        self._ensemble, self._members = ensemble, list(ensemble.members)

    def rows(self, frame: int) -> np.ndarray:
        r"""The placed rows of a frame, in the table's order."""
        return self._rows[self._operator.rows([frame])]

    def __call__(self, frame: int) -> np.ndarray:
        r"""What members see of them, with shape :math:`(M, D)`."""
        piece = self._operator.piece(self._operator.rows([frame]))
        out = np.empty((len(self._members), len(piece.rows)))
        if len(piece.rows):
            for k, m in enumerate(self._members):
                read = lambda f, m=m: self._ensemble.read(m, f, f + 1)[0]  # noqa: E731
                out[k] = piece(self._operator.support(piece, read))
        return out


def see(
    table: ObservationTable, store: Any, start: int, ensemble: Any, frames: Sequence[int]
) -> np.ndarray:
    r"""H(x) of every member for the placed rows of all frames, ascending: see `Seen`."""
    seen = Seen(table, store, start, ensemble, len(frames))
    return np.concatenate([seen(f) for f in frames], 1)


class Writer:
    r"""Writes the file a frame at a time, atomically; made and closed by all ranks together.

    Arguments:
        path: Its name.
        table: All rows, the same on every rank.
        world: The ranks.
        members: Number of members by ensemble (`hofx`, `hofx_background`).
        fence: Called by rank 0 before the file gets its name.
    """

    def __init__(
        self, path: Path, table: ObservationTable, world: Any, members: dict[str, int],
        fence: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        import h5py

        self.path, self.table, self.world, self.fence = path, table, world, fence
        self._scratch = path.with_name(f".{path.name}.tmp")
        if world.rank == 0:
            _create(self._scratch, table, members)
        world.barrier("feedback")
        self._location = locations(table)[1]
        self._digests: list[list] = []
        self._kept: list[tuple] = []
        self._file = None
        shared = world.size > 1 and _parallel(world)
        if shared or world.size == 1:
            how = {"driver": "mpio", "comm": world.comm} if shared else {}
            with at(f"the opening of {path.name}"):
                self._file = h5py.File(self._scratch, "r+", **how)

    def add(self, rows: np.ndarray, ensembles: dict[str, np.ndarray]) -> None:
        r"""Takes what members see, by ensemble :math:`(M, D)`, of D rows of one frame."""
        self._digests += [
            [int(r), digest_array(np.ascontiguousarray(x[:, k]))]
            for x in ensembles.values() for k, r in enumerate(rows)
        ]  # fmt: skip
        if self._file is None:  # without parallel HDF5 rank 0 will write it
            self._kept.append((rows, ensembles))
        else:
            _fill(self._file, self.table, self._location, rows, ensembles)

    def close(self) -> str:
        r"""Ends the file; its digest, on every rank."""
        import h5py

        digests = self.world.gather(self._digests)
        if self._file is not None:
            with at(f"closing {self.path.name}"):
                self._file.close()
        else:
            told = self.world.gather(self._kept) or []
            if self.world.rank == 0:
                with h5py.File(self._scratch, "r+") as f:
                    for rows, of in (pair for part in told for pair in part):
                        _fill(f, self.table, self._location, rows, of)
        digest = None
        if self.world.rank == 0:
            ordered = [d for _, d in sorted((r, d) for part in digests for r, d in part)]
            digest = roll([self.table.digest, *ordered])
            if self.fence is not None:
                self.fence()
            sync(self._scratch)
            os.replace(self._scratch, self.path)
        return self.world.broadcast(digest)


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
