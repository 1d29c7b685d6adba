r"""Thinning and superobbing: one row where many crowd into a cell.

Cells are bands of latitude of `km`, cut into pieces of about `km`; a cell holds rows of one frame
and variable (and level). `nearest` keeps the row nearest to the cell's centre. `average` makes a
new row of all of them: their mean departure from the background (so that a slope of the background
inside the cell does no harm), weighted by 1/σ², at the row nearest to their mean place.
"""

from __future__ import annotations

__all__ = ["thin"]

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import BadInput
from ..models.sphere import EARTH_RADIUS_KM
from . import flags
from .table import COLUMNS, FURTHER, ObservationTable

KM_PER_DEGREE = EARTH_RADIUS_KM * np.pi / 180


def cells(lat: np.ndarray, lon: np.ndarray, km: float) -> tuple[np.ndarray, ...]:
    r"""Number, latitude and longitude of the centre of each place's cell."""
    bands = max(1, round(180 * KM_PER_DEGREE / km))
    height = 180 / bands
    band = np.clip(((lat + 90) / height).astype(np.int64), 0, bands - 1)
    centre = -90 + (band + 0.5) * height
    around = np.maximum(1, np.rint(360 * KM_PER_DEGREE * np.cos(np.deg2rad(centre)) / km))
    width = 360 / around
    column = np.minimum((lon % 360) / width, around - 1).astype(np.int64)
    most = int(360 * KM_PER_DEGREE / km) + 2
    return band * most + column, centre, (column + 0.5) * width


def thin(
    table: ObservationTable, store: Any, config: Any, mean: np.ndarray | None
) -> ObservationTable:
    r"""Flags what is thinned or merged; appends superobservations.

    Arguments:
        table: The rows; only those with flag 0 count.
        store: Its trajectory, for messages.
        config: See `hpcinv.observations.config.Thin`.
        mean: Background of each row (`average`); without statistics, zero.

    Raises:
        BadInput: If the rows have no latitude and longitude.
    """
    rows = np.flatnonzero(table.flag == 0)
    if np.isnan(table.lat[rows]).any():
        raise BadInput(
            "thinning needs latitudes and longitudes",
            f"a grid of {', '.join(store.coords)}",
            "Write thin: null.",
        )
    if not len(rows):
        return table
    lat, lon = table.lat[rows], table.lon[rows]
    cell, centre, middle = cells(lat, lon, config.km)
    level = np.nan_to_num(table.level[rows], nan=-9e9)
    key = np.stack([table.frame[rows], table.channel[rows], level, cell], 1)
    group = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    n = int(group.max()) + 1
    size = np.bincount(group, minlength=n)
    flag = table.flag.copy()
    east = np.cos(np.deg2rad(lat)) * ((lon - middle + 180) % 360 - 180)
    if config.method == "nearest":
        distance = (lat - centre) ** 2 + east**2
        order = np.lexsort((table.error[rows], distance, group))
        first = np.ones(len(rows), bool)
        first[1:] = group[order][1:] != group[order][:-1]
        flag[rows[order[~first]]] = flags.THINNED
        return replace(table, **{c: getattr(table, c) for c in COLUMNS | FURTHER} | {"flag": flag})
    b = np.zeros(len(rows)) if mean is None else mean[rows]
    w = 1 / table.error[rows] ** 2
    total = np.bincount(group, w, n)
    average = lambda x: np.bincount(group, w * x, n) / total  # noqa: E731
    departure, place, across = average(table.value[rows] - b), average(lat), average(east)
    distance = (lat - place[group]) ** 2 + (east - across[group]) ** 2
    order = np.lexsort((distance, group))
    lead = order[np.r_[True, np.diff(group[order]) != 0]]  # one row for each group, in its order
    many = size > 1
    made = lead[many]
    flag[rows[many[group]]] = flags.MERGED
    columns = {c: getattr(table, c) for c in COLUMNS | FURTHER}
    new = {c: x[rows[made]] for c, x in columns.items()}
    new["value"] = b[made] + departure[many]
    # White errors average out; what the members of a cell share does not.
    new["error"] = np.sqrt(1 / total[many] + config.representativeness**2)
    new["station"] = np.array([f"superob of {k}" for k in size[many]], np.str_)
    new["flag"] = np.zeros(len(made), np.int32)
    columns["flag"] = flag
    return replace(table, **{c: np.concatenate([x, new[c]]) for c, x in columns.items()})
