r"""How much of the Earth, or of any grid, a point stands for."""

from __future__ import annotations

__all__ = ["area_weights"]

import numpy as np


def area_weights(
    coords: dict[str, np.ndarray],
    coord_attrs: dict[str, dict[str, str]],
    mask: np.ndarray | None = None,
) -> np.ndarray:
    r"""Area weights of a grid, mean 1 over its valid points, with the grid's shape.

    On a latitude–longitude grid a cell weighs :math:`\sin\phi_+ - \sin\phi_-` between its bounds
    (midway between latitudes, the poles at the ends); elsewhere all points weigh alike.

    Arguments:
        coords: Coordinates by name, in the order of the grid's axes.
        coord_attrs: Their attributes; latitude is known by its standard name.
        mask: Where the grid is valid, or None.
    """
    grid = [len(c) for c in coords.values()]
    w = np.ones(grid)
    for axis, (name, lat) in enumerate(coords.items()):
        if coord_attrs.get(name, {}).get("standard_name") == "latitude" and len(lat) > 1:
            mid = (lat[1:] + lat[:-1]) / 2
            ends = np.clip([1.5 * lat[0] - lat[1] / 2, 1.5 * lat[-1] - lat[-2] / 2], -90, 90)
            bounds = np.concatenate([ends[:1], mid, ends[1:]])
            shape = [1] * len(grid)
            shape[axis] = len(lat)
            w = w * np.abs(np.diff(np.sin(np.deg2rad(bounds)))).reshape(shape)
    if mask is not None:
        w = np.where(mask, w, 0.0)
        return w * mask.sum() / w.sum()
    return w / w.mean()
