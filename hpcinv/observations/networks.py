r"""Observing networks for OSSEs: tables drawn from a trajectory that is known.

Every draw is keyed by the seed and the frame's number in the truth's store, so that a table
does not depend on which other frames are observed, on their order or on the number of ranks.
"""

from __future__ import annotations

__all__ = ["random_points"]

from collections.abc import Sequence

import numpy as np

from ..errors import BadInput, nearest
from .table import ObservationTable


def random_points(
    truth,
    *,
    start: int,
    stop: int,
    points: int,
    channels: Sequence[str] | None = None,
    error: float | dict[str, float] = 0.5,
    every: int = 1,
    seed: int = 0,
) -> ObservationTable:
    r"""Random valid grid points of each frame, with white Gaussian noise.

    Arguments:
        truth: A trajectory store (`.read`, `.channels`, `.units`, `.grid`, `.coords`, `.time`,
            `.time_units`, `.calendar`, `.mask`); frames are read one by one.
        start, stop: Frames of the store that are analysed: frame `start` becomes frame 0.
        points: Points in a frame, drawn without replacement, all equally likely (so that on a
            latitude–longitude grid the polar caps are seen more densely than the tropics).
        channels: Names of the channels seen at each point; all by default.
        error: Standard deviation σ in the channel's units, one for all or by channel.
        every: Observe frames 0, `every`, 2 `every`, ...
        seed: Key of the draws.

    Returns:
        A table of `points` × channels rows for each observed frame.

    Raises:
        BadInput: For unknown channels, frames outside the store, too many points, or a truth
            that is not finite where it is observed.
    """
    from ..diffusion.noise import generator

    names = list(truth.channels)
    seen = names if channels is None else list(channels)
    for name in [*seen, *(error if isinstance(error, dict) else ())]:
        if name not in names:
            raise BadInput(f"unknown variable '{name}'", "channels", nearest(name, names))
    missing = [n for n in seen if isinstance(error, dict) and n not in error]
    if missing:
        raise BadInput(f"no error for '{missing[0]}'", "error", "Give σ for each channel seen.")
    if not 0 <= start < stop <= truth.length:
        raise BadInput(
            f"frames {start} to {stop - 1} of a store of {truth.length}",
            "observed frames",
            f"Give frames between 0 and {truth.length - 1}.",
        )
    where = np.arange(int(np.prod(truth.grid)))
    if truth.mask is not None:
        where = np.flatnonzero(np.asarray(truth.mask, bool).reshape(-1))
    if points > len(where):
        raise BadInput(
            f"{points} points of a grid of {len(where)} valid points",
            "points",
            f"Give at most {len(where)}.",
        )
    index = np.array([names.index(n) for n in seen])
    sigma = np.array([error[n] if isinstance(error, dict) else error for n in seen], float)
    lat, lon = _geography(truth)
    rows: dict[str, list[np.ndarray]] = {
        k: [] for k in ("frame", "channel", "point", "value", "error", "lat", "lon", "time")
    }
    for t in range(start, stop, every):
        rng = generator(seed, "observe", t)
        p = rng.permutation(where)[:points]
        noise = rng.standard_normal((points, len(index))) * sigma
        x = truth.read(t, t + 1)[0].reshape(len(names), -1)
        y = x[index[None], p[:, None]].astype(np.float64) + noise
        if not np.isfinite(y).all():
            c = names[index[np.flatnonzero(~np.isfinite(y).all(0))[0]]]
            raise BadInput(f"the truth '{c}' is not finite at frame {t}", "observed frames")
        shape = (points, len(index))
        for key, column in (
            ("frame", t - start),
            ("channel", index[None]),
            ("point", p[:, None]),
            ("value", y),
            ("error", sigma[None]),
            ("lat", lat[p][:, None]),
            ("lon", lon[p][:, None]),
            ("time", truth.time[t]),
        ):
            rows[key].append(np.broadcast_to(column, shape).reshape(-1))
    columns = {k: np.concatenate(v) for k, v in rows.items()}
    return ObservationTable(
        **columns,
        station=np.full(len(columns["frame"]), "", np.str_),
        channels=tuple(names),
        units=tuple(truth.units),
        time_units=truth.time_units,
        calendar=truth.calendar,
    )


def _geography(truth) -> tuple[np.ndarray, np.ndarray]:
    r"""Latitude and longitude of every grid point (flat), NaN where the grid has none."""
    found = {}
    for axis, (name, values) in enumerate(truth.coords.items()):
        kind = truth.coord_attrs.get(name, {}).get("standard_name", name)
        shape = [1] * len(truth.grid)
        shape[axis] = -1
        found[kind] = np.broadcast_to(values.reshape(shape), truth.grid).reshape(-1)
    nothing = np.full(int(np.prod(truth.grid)), np.nan)
    lat = found.get("latitude", found.get("lat", nothing))
    lon = found.get("longitude", found.get("lon", nothing))
    # A grid may run past the meridian it began at (20 to 377.5 degrees); tables do not.
    return lat.astype(np.float64), np.where(lon > 360, lon - 360, lon).astype(np.float64)
