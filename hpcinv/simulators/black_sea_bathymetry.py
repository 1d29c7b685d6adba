r"""Depths of the shelf-basin model: formulas, or a file of heights averaged to its cells."""

from __future__ import annotations

__all__ = ["formula", "read_heights"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import BadInput

# South and west of this there is the Sea of Marmara, behind a strait that no cell resolves.
BOSPORUS = (41.2, 29.2)


def formula(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    r"""An elliptic basin with a broad shelf in the north-west and a narrow one around, m."""
    lat = lat[:, None]
    basin = 1 - ((lon - 34.7) / 6.6) ** 2 - ((lat - 43.1) / 1.9) ** 2
    shelf = 1 - ((lon - 30.9) / 2.7) ** 2 - ((lat - 45.0) / 1.7) ** 2
    around = 40 + 600 * basin  # 40 m at the coast
    north_west = 10 + 22 * np.hypot((lon - 30.4) * 0.72, lat - 46.5)  # deeper away from its corner
    return np.where(shelf > 0, np.where(basin > 0.25, around, north_west), 0) + np.where(
        (shelf <= 0) & (basin > 0), around, 0
    )


def read_heights(
    source: str | Mapping[str, str], lat: np.ndarray, lon: np.ndarray
) -> np.ndarray:  # fmt: skip
    r"""Depths of a file of heights, m; 0 on land.

    Of a file finer than the grid, a cell is sea where half of its points or more are, and as deep
    as these in the mean; without the Sea of Marmara. Of a coarser one heights are interpolated.
    What is not joined to the largest sea by the sides of cells is land.

    Arguments:
        source: A netCDF file, or one of a Debian package with its checksum, which is fetched if
            it is not in the cache.
        lat, lon: Of the cells' middles, evenly spaced, ascending.

    Raises:
        BadInput: If the file is missing, or has no single field over latitude and longitude, or
            does not cover the cells.
    """
    import xarray as xr

    path = _path(source)
    with xr.open_dataset(path) as d:
        fields = [v for v in d.data_vars.values() if v.ndim == 2]
        if len(fields) != 1:
            raise BadInput(
                f"{len(fields)} variables with two axes", path, "Keep the heights only."
            )
        y, x = fields[0].dims
        field = fields[0].rename({y: "lat", x: "lon"}).sortby(["lat", "lon"])
        side = float(lat[1] - lat[0]), float(lon[1] - lon[0])
        area = {
            k: slice(v[0] - s / 2 - 0.5, v[-1] + s / 2 + 0.5)
            for k, v, s in zip(("lat", "lon"), (lat, lon), side, strict=True)
        }
        spacing = [float(np.diff(field[k]).mean()) for k in ("lat", "lon")]
        if spacing[0] < side[0] and spacing[1] < side[1]:
            depth = _averaged(field.sel(area), lat, lon, side)
        else:
            depth = np.maximum(-field.interp(lat=lat, lon=lon).values, 0.0)
    if not np.isfinite(depth).all():
        raise BadInput("heights do not cover 41 to 46.5 N, 28 to 41.5 E", path)
    return np.where(_largest(depth > 0), depth, 0.0)


def _path(source: str | Mapping[str, str]) -> Path:
    if isinstance(source, Mapping):
        if set(source) != {"debian", "file", "sha256"}:
            raise BadInput(
                f"bathymetry with {', '.join(map(str, source))}", "simulator 'black_sea'",
                "Write debian, file and sha256, or the path of a file.",
            )  # fmt: skip
        from ..io.sources import fetch_debian

        return fetch_debian(source["debian"], source["file"], source["sha256"])
    if not Path(source).exists():
        raise BadInput("no such file", source)
    return Path(source)


def _averaged(field, lat: np.ndarray, lon: np.ndarray, side: tuple[float, float]) -> np.ndarray:
    r"""Depths of cells, NaN where the file has no point."""
    z = np.asarray(field.values, np.float64)
    y, x = (np.asarray(field[k].values, np.float64) for k in ("lat", "lon"))
    sea = (z < 0) & ~((y[:, None] < BOSPORUS[0]) & (x < BOSPORUS[1]))
    # Which points are in a row or a column of cells, each in one: sums over cells are products
    # with these. Points on a side, but for rounding, belong to the cell above it.
    rows, columns = (
        np.floor((at - c[0]) / s + 0.5 + 1e-6) == np.arange(len(c))[:, None]
        for at, c, s in ((y, lat, side[0]), (x, lon, side[1]))
    )
    total = lambda f: rows.astype(float) @ f @ columns.T.astype(float)  # noqa: E731
    points, wet = total(np.isfinite(z).astype(float)), total(sea.astype(float))
    depth = total(np.where(sea, -z, 0.0)) / np.maximum(wet, 1)
    return np.where(points > 0, np.where(2 * wet >= points, depth, 0.0), np.nan)


def _largest(wet: np.ndarray) -> np.ndarray:
    r"""The largest set of wet cells that are joined by their sides."""
    left, best = wet.copy(), np.zeros_like(wet)
    while left.any():
        part = np.zeros_like(wet)
        part[np.unravel_index(left.argmax(), wet.shape)] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= left
            if (grown == part).all():
                break
            part = grown
        left &= ~part
        best = part if part.sum() > best.sum() else best
    return best
