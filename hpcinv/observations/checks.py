r"""What makes a row of an observation table unusable, and how to mend it."""

from __future__ import annotations

__all__ = ["check"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadInput, nearest

if TYPE_CHECKING:
    from .table import ObservationTable


def check(
    table: ObservationTable,
    length: int | None,
    grid: Sequence[int] | None,
    channels: Sequence[str] | None,
    units: Sequence[str] | None,
    mask: np.ndarray | None,
    where: object,
) -> None:
    r"""Raises `BadInput` at the first unusable row; see `ObservationTable.check`."""
    _same_channels(table, channels, units, where)

    def every(good: np.ndarray, what: str, column: np.ndarray, mend: str) -> None:
        good = good | (table.flag != 0)  # quality control has already turned the row down
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            name = _channel(table, row)
            also = int((~good).sum()) - 1
            more = f" (and {also} more rows)" if also else ""
            place = f"{where}, row {row} (frame {table.frame[row]}, {name})"
            raise BadInput(what.format(column[row]) + more, place, mend)

    C = len(table.variables)
    every(
        (table.channel >= 0) & (table.channel < C),
        f"channel {{}} of a trajectory of {C} channels ({', '.join(table.variables)})",
        table.channel,
        f"Channels are numbered from 0 to {C - 1}.",
    )
    every(
        np.isfinite(table.value),
        "the value is {}",
        table.value,
        "Leave out what was not observed, there is no fill value.",
    )
    every(
        np.isfinite(table.error) & (table.error > 0),
        "the error σ is {}",
        table.error,
        "Give a positive standard deviation in the units of the value.",
    )
    if length is not None:
        every(
            (table.frame >= 0) & (table.frame < length),
            f"frame {{}} of a trajectory of {length} frames",
            table.frame,
            f"Frames are numbered from 0 to {length - 1} from the start of the analysis.",
        )
    if grid is not None:
        n = int(np.prod(grid))
        every(
            (table.point >= 0) & (table.point < n),
            f"point {{}} of a grid of {n} points",
            table.point,
            f"Points are numbered from 0 to {n - 1}, in C order of the grid "
            f"({' × '.join(str(s) for s in grid)}).",
        )
        if mask is not None:
            every(
                np.asarray(mask, bool).reshape(-1)[np.clip(table.point, 0, n - 1)],
                "point {} is outside the domain (the grid's mask)",
                table.point,
                "Observe points where the mask is true.",
            )
    if not (np.isnan(table.lat).all() and np.isnan(table.lon).all()):
        every(
            np.abs(table.lat) <= 90,
            "latitude {}",
            table.lat,
            "Latitudes are degrees north, from -90 to 90.",
        )
        every(
            np.isfinite(table.lon) & (np.abs(table.lon) <= 360),
            "longitude {}",
            table.lon,
            "Longitudes are degrees east, from -180 to 360.",
        )
    every(np.isfinite(table.time), "the time is {}", table.time, "Give the time of every row.")


def _same_channels(table, channels, units, where) -> None:
    if channels is not None and tuple(channels) != table.channels:
        known = list(channels)
        for name in table.channels:
            if name not in known:
                raise BadInput(f"unknown variable '{name}'", where, nearest(name, known))
        raise BadInput(
            f"channels {', '.join(table.channels)} where the trajectory has {', '.join(known)}",
            where,
            "Give all of its channels, in its order.",
        )
    if units is not None and tuple(units) != table.units:
        for name, mine, theirs in zip(table.channels, table.units, units, strict=True):
            if mine != theirs:
                raise BadInput(
                    f"'{name}' is in '{mine}' where the trajectory has '{theirs}'",
                    where,
                    "Convert values and errors to the trajectory's units.",
                )


def _channel(table, row: int) -> str:
    c = int(table.channel[row])
    return table.variables[c] if 0 <= c < len(table.variables) else f"channel {c}"
