r"""Stencils: the grid points and weights with which a place sees a grid.

On a grid of latitude and longitude that goes around, `bilinear` crosses the date line, and
beyond the last circle of latitude it goes on across the pole, to the points half a turn away,
where eastward and northward components of a vector have the other sign (`vectors`).
Elsewhere, and in other coordinates, weights end at the edge.
"""

from __future__ import annotations

__all__ = [
    "axes", "beyond_the_pole", "goes_around", "horizontal", "nearest_points", "vectors",
]  # fmt: skip

import itertools
from typing import Any

import numpy as np

from ..errors import BadInput

LAT, LON = ("latitude", "lat"), ("longitude", "lon")


def axes(store: Any) -> dict[str, int]:
    r"""Axis numbers of latitude and longitude, `{"lat": 0, "lon": 1}`."""
    found = {}
    for k, name in enumerate(store.coords):
        kind = store.coord_attrs.get(name, {}).get("standard_name", name)
        if kind in LAT + LON:
            found["lat" if kind in LAT else "lon"] = k
    return found


def _axis(store: Any, k: int) -> np.ndarray:
    return np.asarray(list(store.coords.values())[k], np.float64)


def goes_around(lon: np.ndarray) -> bool:
    r"""Whether a row of longitudes meets its own beginning."""
    step = np.abs(np.diff(lon)).mean() if len(lon) > 1 else 360.0
    return bool(abs(abs(lon[-1] - lon[0]) + step - 360) < 0.01 * step)


def nearest_points(store: Any, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Flat index of the nearest grid point of each place, and whether its cell holds the place.

    Raises:
        BadInput: If the grid has an axis that is neither latitude nor longitude.
    """
    index, inside = [], np.ones(len(lat), bool)
    of = axes(store)
    for k, name in enumerate(store.coords):
        axis = _axis(store, k)
        if of.get("lat") == k:
            x = np.asarray(lat, np.float64)
        elif of.get("lon") == k:
            x = axis[0] + (np.asarray(lon, np.float64) - axis[0]) % 360.0
            half = abs(axis[1] - axis[0]) / 2 if len(axis) > 1 else 180.0
            x = np.where(x > axis.max() + half, x - 360.0, x)
        else:
            raise BadInput(f"point tables need latitude and longitude, not '{name}'", "grid")
        order = np.argsort(axis)
        mid = (axis[order][1:] + axis[order][:-1]) / 2
        index.append(order[np.searchsorted(mid, x)])
        half = np.abs(np.diff(axis[order])).max() / 2 if len(axis) > 1 else 180.0
        inside &= (x >= axis.min() - half) & (x <= axis.max() + half)
    return np.ravel_multi_index(tuple(index), store.grid), inside


def horizontal(
    store: Any, space: str, cells: int, point: np.ndarray, lat: np.ndarray, lon: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Points and weights of each place.

    Arguments:
        store: The trajectory (`coords`, `coord_attrs`, `grid`, `mask`).
        space, cells: See `Forward`.
        point: Nearest grid point of each place, with shape :math:`(D)`.
        lat, lon: The places, degrees.

    Returns:
        Flat points and weights, both with shape :math:`(D, K)`; the weights of a row sum to one.
    """
    if space == "nearest":
        return point[:, None], np.ones((len(point), 1))
    of = axes(store)
    if space == "block" and not of:
        return _normalised(store, point, *_block(store, cells, point))
    if set(of) != {"lat", "lon"} or len(store.grid) != 2:
        raise BadInput(
            f"'{space}' needs a grid of latitude and longitude, not {', '.join(store.coords)}",
            "observing: forward: space",
            "Write space: nearest.",
        )
    la, lo = _axis(store, of["lat"]), _axis(store, of["lon"])
    if space == "bilinear":
        i, wi = _bracket_latitude(la, np.asarray(lat, np.float64), lo)
        pieces = []
        for side in range(2):
            over = (i[side] < 0) | (i[side] >= len(la))
            row = np.where(i[side] < 0, 0, np.minimum(i[side], len(la) - 1))
            x = np.where(over, np.asarray(lon) + 180.0, lon)
            j, wj = _bracket_longitude(lo, x)
            pieces += [(row, j[s], wi[side] * wj[s]) for s in range(2)]
    else:
        rows, columns = np.unravel_index(point, store.grid)
        if of["lat"] == 1:
            rows, columns = columns, rows
        half = cells // 2
        area = np.cos(np.deg2rad(la))
        around = goes_around(lo)
        pieces = []
        for a, b in itertools.product(range(-half, half + 1), repeat=2):
            r, c = rows + a, columns + b
            good = (r >= 0) & (r < len(la))
            good &= True if around else (c >= 0) & (c < len(lo))
            r, c = (
                np.clip(r, 0, len(la) - 1),
                c % len(lo) if around else np.clip(c, 0, len(lo) - 1),
            )
            pieces.append((r, c, np.where(good, np.maximum(area[r], 1e-6), 0.0)))
    r, c, w = (np.stack(column, 1) for column in zip(*pieces, strict=True))
    where = (r, c) if of["lat"] == 0 else (c, r)
    return _normalised(store, point, np.ravel_multi_index(where, store.grid), w)


def vectors(store: Any) -> np.ndarray:
    r"""Which channels are eastward or northward components, by their standard names."""
    names = [n or "" for n in getattr(store, "standard_names", None) or [""] * len(store.channels)]
    return np.array(
        [n.startswith(("eastward_", "northward_")) or n in ("x_wind", "y_wind") for n in names]
    )


def beyond_the_pole(store: Any, point: np.ndarray, lon: np.ndarray) -> np.ndarray:
    r"""Which grid points (D, K) lie across a pole from places at longitudes (D)."""
    k = axes(store).get("lon")
    if k is None or np.isnan(lon).all():
        return np.zeros(point.shape, bool)
    theirs = _axis(store, k)[np.unravel_index(point, store.grid)[k]]
    return np.abs((theirs - np.asarray(lon)[:, None] + 180) % 360 - 180) > 90


def _block(store: Any, cells: int, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Points around others on a grid without geography, with weights 0 beyond its edges.

    An axis with an attribute `period` has none.
    """
    half, index = cells // 2, np.unravel_index(point, store.grid)
    flat, weight = [], []
    for offsets in itertools.product(range(-half, half + 1), repeat=len(store.grid)):
        good, moved = np.ones(len(point), bool), []
        for name, n, i, o in zip(store.coords, store.grid, index, offsets, strict=True):
            j = i + o
            if "period" in store.coord_attrs.get(name, {}):
                j = j % n
            else:
                good &= (j >= 0) & (j < n)
            moved.append(np.clip(j, 0, n - 1))
        flat.append(np.ravel_multi_index(tuple(moved), store.grid))
        weight.append(good.astype(np.float64))
    return np.stack(flat, 1), np.stack(weight, 1)


def _normalised(
    store: Any, point: np.ndarray, flat: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if store.mask is not None:  # what lies outside the domain does not count
        w = np.where(np.asarray(store.mask, bool).reshape(-1)[flat], w, 0.0)
    total = w.sum(1, keepdims=True)
    empty = total[:, 0] <= 0
    flat[empty], w[empty] = point[empty, None], 1.0
    return flat, w / w.sum(1, keepdims=True)


def _bracket_latitude(axis: np.ndarray, x: np.ndarray, lon: np.ndarray):
    r"""Rows around each latitude; row −1 or n lies across the pole on a grid that goes around."""
    order = np.argsort(axis)
    up = axis[order]
    n = len(axis)
    if goes_around(lon):
        up = np.concatenate([[-180 - up[0]], up, [180 - up[-1]]])
        # Beside the southernmost row lies row −1 or row n, as latitudes ascend or descend.
        south, north = (-1, n) if order[0] == 0 else (n, -1)
        names = np.concatenate([[south], order, [north]])
    else:
        names = order
    if len(up) == 1:
        return (names[np.zeros(len(x), int)],) * 2, (np.ones(len(x)), np.zeros(len(x)))
    k = np.clip(np.searchsorted(up, x, "right") - 1, 0, len(up) - 2)
    width = up[k + 1] - up[k]
    w = np.clip((x - up[k]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    return (names[k], names[k + 1]), (1 - w, w)


def _bracket_longitude(axis: np.ndarray, x: np.ndarray):
    order = np.argsort(axis)
    up = axis[order]
    x = up[0] + (np.asarray(x, np.float64) - up[0]) % 360.0
    if goes_around(axis):
        up, names = np.append(up, up[0] + 360), np.append(order, order[0])
    else:
        names = order
        x = np.where(x > (up[-1] + up[0] + 360) / 2, x - 360, x)
    if len(up) == 1:
        return (names[np.zeros(len(x), int)],) * 2, (np.ones(len(x)), np.zeros(len(x)))
    k = np.clip(np.searchsorted(up, x, "right") - 1, 0, len(up) - 2)
    w = np.clip((x - up[k]) / (up[k + 1] - up[k]), 0.0, 1.0)
    return (names[k], names[k + 1]), (1 - w, w)
