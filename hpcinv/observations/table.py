r"""The observation table: one row for each observed number, the same for every method.

A row says which frame, channel and grid point it saw, the value, its error standard deviation
σ, where and when. Rows are kept in one canonical order (frame, station, point, time, channel),
so that two tables with the same content are the same bytes and have the same digest. Rows that
quality control turned down stay in the table, with the reason as a flag (`quality.REASONS`).
"""

from __future__ import annotations

__all__ = ["COLUMNS", "ObservationTable"]

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from ..errors import BadInput
from ..io.atomic import digest_array, digest_bytes, roll
from .config import Forward

COLUMNS = {
    "frame": np.int64,
    "channel": np.int64,
    "point": np.int64,
    "value": np.float64,
    "error": np.float64,
    "lat": np.float64,
    "lon": np.float64,
    "time": np.float64,
    "station": np.str_,
}
FURTHER = {"flag": np.int32, "level": np.float64}  # left out of calls that do not need them

NEAREST = Forward()


@dataclass(frozen=True)
class ObservationTable:
    r"""Point observations of a trajectory, in physical units.

    Arguments:
        frame: Frame of the analysed trajectory, 0 to L - 1, with shape :math:`(D)`.
        channel: Index into `variables`: the channels, then the derived ones of `forward`.
        point: Flat index of the grid point observed.
        value: :math:`y`, in the channel's units.
        error: Standard deviation :math:`\sigma` of the observation error, same units.
        lat, lon: Degrees north and east; all NaN where the grid has no geography.
        time: In `time_units` of `calendar`.
        station: Identifier of the station or instrument, possibly empty.
        channels: Names of the trajectory's channels, all of them, in its order.
        units: Their units.
        time_units, calendar: CF time.
        flag: 0 for a row that may be used, else the reason why not; 0 by default.
        level: Vertical coordinate of the row, where it has one; NaN by default.
        forward: How a row sees the state: interpolation and derived variables.

    Raises:
        BadInput: If columns differ in length or a channel has no units.
    """

    frame: np.ndarray
    channel: np.ndarray
    point: np.ndarray
    value: np.ndarray
    error: np.ndarray
    lat: np.ndarray
    lon: np.ndarray
    time: np.ndarray
    station: np.ndarray
    channels: tuple[str, ...]
    units: tuple[str, ...]
    time_units: str = ""
    calendar: str = "standard"
    flag: np.ndarray | None = None
    level: np.ndarray | None = None
    forward: Forward = NEAREST

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "channels", tuple(self.channels))
        put(self, "units", tuple(self.units))
        if self.time_units == "1":  # numbers of no unit: a file says it so, a table says nothing
            put(self, "time_units", "")
        if len(self.units) != len(self.channels):
            raise BadInput(
                f"{len(self.channels)} channels but {len(self.units)} units",
                "observation table",
                "Give one unit for each channel, '1' where it has none.",
            )
        n = np.size(self.value)
        if self.flag is None:
            put(self, "flag", np.zeros(n, np.int32))
        if self.level is None:
            put(self, "level", np.full(n, np.nan))
        for name, kind in (COLUMNS | FURTHER).items():
            try:
                put(self, name, np.asarray(getattr(self, name), kind).reshape(-1))
            except (TypeError, ValueError) as e:
                raise BadInput(f"not a column of numbers ({e})", f"column '{name}'") from e
        lengths = {name: len(getattr(self, name)) for name in COLUMNS | FURTHER}
        if len(set(lengths.values())) > 1:
            raise BadInput(f"columns of different lengths: {lengths}", "observation table")
        keys = (self.channel, self.level, self.time, self.point, self.station, self.frame)
        order = np.lexsort(keys)
        for name in COLUMNS | FURTHER:
            put(self, name, getattr(self, name)[order])

    def __len__(self) -> int:
        return len(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservationTable) and self.digest == other.digest

    @property
    def variables(self) -> tuple[str, ...]:
        r"""What `channel` counts: the trajectory's channels, then the derived variables."""
        return (*self.channels, *(d.name for d in self.forward.derived))

    @property
    def variable_units(self) -> tuple[str, ...]:
        return (*self.units, *(d.units for d in self.forward.derived))

    @property
    def used(self) -> ObservationTable:
        r"""The rows that a method may use: those with flag 0."""
        return self if not self.flag.any() else self.select(self.flag == 0)

    @property
    def plain(self) -> bool:
        r"""Whether each row is simply one number of the state, at its nearest grid point."""
        C = len(self.channels)
        return self.forward.direct and not (self.channel >= C).any()

    @property
    def digest(self) -> str:
        r"""BLAKE2b of names, units and columns."""
        head = [*self.channels, "|", *self.units, "|", self.time_units, self.calendar]
        texts = ["\n".join(head), "\n".join(self.station.tolist())]
        columns = [digest_array(getattr(self, c)) for c in COLUMNS if c != "station"]
        # What a table without them lacks leaves its digest alone.
        if self.flag.any() or not np.isnan(self.level).all():
            columns += [digest_array(getattr(self, c)) for c in FURTHER]
        if self.forward != NEAREST:
            texts.append(self.forward.model_dump_json())
        return roll([*(digest_bytes(t.encode()) for t in texts), *columns])

    def select(self, mask: np.ndarray) -> ObservationTable:
        r"""The rows where a boolean mask (or an index) picks them."""
        return replace(self, **{c: getattr(self, c)[mask] for c in COLUMNS | FURTHER})

    def at(self, frames: Sequence[int]) -> ObservationTable:
        r"""The rows of some frames."""
        return self.select(np.isin(self.frame, np.asarray(frames, np.int64)))

    @classmethod
    def concatenate(cls, tables: Sequence[ObservationTable]) -> ObservationTable:
        r"""Several tables of one trajectory as one."""
        first = tables[0]
        for t in tables[1:]:
            if (t.variables, t.variable_units) != (first.variables, first.variable_units):
                raise BadInput(
                    f"tables of different channels: {first.variables} and {t.variables}",
                    "observation table",
                )
        return replace(
            first,
            **{c: np.concatenate([getattr(t, c) for t in tables]) for c in COLUMNS | FURTHER},
        )

    def check(
        self,
        *,
        length: int | None = None,
        grid: Sequence[int] | None = None,
        channels: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        mask: np.ndarray | None = None,
        where: object = "observation table",
    ) -> ObservationTable:
        r"""Checks every row against the trajectory it observes, and returns the table.

        Arguments:
            length: Frames of the trajectory.
            grid: Shape of its grid.
            channels, units: Its channels and their units.
            mask: Where the grid is valid, with its shape.
            where: Name of the table in messages, usually its file.

        Raises:
            BadInput: Naming the first row that cannot be used, and the mend.
        """
        from .checks import check

        check(self, length, grid, channels, units, mask, where)
        return self

    def save(self, path: Path | str) -> str:
        r"""Writes the table as netCDF in IODA's group layout, atomically; returns its digest.

        See `hpcinv.observations.ioda`.
        """
        from .ioda import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> ObservationTable:
        r"""Reads a table written by `save`.

        Raises:
            BadInput: If it is missing, truncated, lacks a group or variable, or was changed.
        """
        from .ioda import load

        return load(Path(path))


assert [f.name for f in fields(ObservationTable)][: len(COLUMNS)] == list(COLUMNS)
