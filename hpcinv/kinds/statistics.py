r"""Climatology and standard deviation of a file's training frames, summed over ranks."""

from __future__ import annotations

__all__ = ["climatology", "name_missing", "name_still"]

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadInput
from ..io.areas import area_weights
from ..io.fields import GriddedFile
from ..io.phase_moments import PhaseMoments
from ..io.statistics import Statistics
from ..parallel import World

if TYPE_CHECKING:
    from .import_ import StatisticsFields


def name_missing(x: np.ndarray, start: int, file: GriddedFile, mask: np.ndarray | None) -> None:
    r"""Raises for the first value that is not finite, naming its variable and time.

    Raises:
        BadInput: With variable, date, and how many points miss it.
    """
    bad = ~np.isfinite(x)
    if mask is not None:
        bad &= mask
    if not bad.any():
        return
    import cftime

    t, c = (int(i) for i in np.argwhere(bad)[0][:2])
    date = cftime.num2date(file.time[start + t], file.time_units, file.calendar)
    n = int(bad[t, c].sum())
    raise BadInput(
        f"variable '{file.channels[c][0]}' has {n} missing or non-finite values at {date} "
        f"(frame {start + t})",
        file.path,
        "Mend the file, choose another period, or set missing: mask where land is missing always.",
    )


def name_still(mean: np.ndarray, var: np.ndarray, channels: list[str], where: object) -> None:
    r"""Raises for the first channel that never varies somewhere, by whose deviation none can
    divide.

    Arguments:
        mean, var: With shape :math:`(P, C, *grid)`; the variance of what does not count is 1.
        channels: The names of the channels.
        where: The store or file.

    Raises:
        BadInput: With the channel, and the number of its points if they are not all.
    """
    # What is below the resolution of the numbers is no variance, but how their sums were rounded.
    still = ~(var > np.square(np.finfo(np.float32).eps * mean))
    for c, name in enumerate(channels):
        points = still[:, c].any(0)
        if points.all():
            raise BadInput(f"channel '{name}' never varies", where, "Leave it out.")
        if points.any():
            n = int(points.sum())
            raise BadInput(
                f"channel '{name}' never varies at {n} of its {points.size} points",
                where,
                "Take more training frames, one deviation for all points of a channel (of an "
                "import: statistics: {per: channel}), or smooth it.",
            )


def climatology(
    read: Callable[[int, int], np.ndarray],
    own: tuple[int, int],
    file: GriddedFile,
    fields: StatisticsFields,
    world: World,
    step: int,
    mask: np.ndarray | None,
) -> Statistics:
    r"""Mean and unbiased variance by phase, in one pass over this rank's training frames.

    Arguments:
        read: Gives frames [start, stop) with shape :math:`(n, C, *grid)`, finite everywhere.
        own: The frames, half-open, that this rank can read.
        file: Where they came from: names and dates.
        fields: What is asked for.
        world: The ranks.
        step: Frames read at once.
        mask: Where the grid is valid, or None.

    Raises:
        BadInput: If a phase has fewer than two training frames, a channel never varies (at some
            point), or the training frames are not in the file.
    """
    import cftime

    L = len(file.time)
    a, b = fields.frames
    if b > L:
        raise BadInput(f"'statistics.frames' ends at {b} but there are {L} frames", file.path)
    phases = np.zeros(L, np.int64)
    if fields.phase == "month":
        dates = cftime.num2date(file.time, file.time_units, file.calendar)
        phases = np.array([d.month - 1 for d in dates])
    P = 12 if fields.phase == "month" else 1
    grid = tuple(len(c) for c in file.coords.values())
    pooled = fields.per == "channel"
    w = area_weights(file.coords, file.coord_attrs, mask)
    w = w / w.sum()
    count = np.bincount(phases[a:b], minlength=P)
    if count.min() < 2:
        raise BadInput(
            f"phase {int(count.argmin()) + 1} has {count.min()} training frames",
            file.path,
            "At least two are needed: widen 'statistics.frames' or set phase: none.",
        )
    lo, hi = max(a, own[0]), min(b, own[1])
    moments = PhaseMoments(P, (len(file.channels), *grid), w if pooled else None)
    for t in range(lo, hi, step):
        x = read(t, min(t + step, hi))
        moments.add(x, phases[t : t + len(x)])
    mean, spread = moments.shared(world)
    n = count.reshape(-1, *[1] * (mean.ndim - 1))
    var = spread / (n - 1) * (n + 1) / n  # of a year that is not in the mean
    valid = np.ones(mean.shape[2:], bool) if mask is None or pooled else mask
    var = np.where(valid, var if pooled else _smooth(var, file, fields), 1.0)
    name_still(mean, var, [c for c, *_ in file.channels], file.path)
    return Statistics(mean.astype("f4"), np.sqrt(var).astype("f4"), count, phases, grid)


def _smooth(var: np.ndarray, file: GriddedFile, fields: StatisticsFields) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    if fields.smooth.phases and len(var) > 1:
        var = gaussian_filter1d(var, fields.smooth.phases, axis=0, mode="wrap")
    for axis, (role, x) in enumerate(file.coords.items(), start=2):
        if fields.smooth.degrees and role in ("lat", "lon") and len(x) > 2:
            spacing = abs(float(x[1] - x[0]))
            around = role == "lon" and abs(spacing * len(x) - 360) < spacing / 2
            sigma = fields.smooth.degrees / spacing
            var = gaussian_filter1d(var, sigma, axis=axis, mode="wrap" if around else "nearest")
    return var
