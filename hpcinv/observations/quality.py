r"""Quality control: which rows may be used, and for each other one the reason why not.

Checks run in a fixed order, and a row keeps the first reason it gets: bounds, duplicates, (biases
of stations are taken off,) the background check, the buddy check; then rows are withheld for
verification and the rest thinned. Nothing leaves the table.

* Background check: a row is turned down if :math:`|y - \bar h| > k \sqrt{s^2 + \sigma^2}` with the
  prior's predictive mean and deviation (`background`).
* Buddy check: the normalised departure of a row is predicted from those of its neighbours in the
  same frame and variable, as in optimal interpolation with a Gaussian correlation (Lorenc 1981);
  a row is turned down if it misses by more than k of the prediction's deviations. The worst of a
  neighbourhood goes first and the others are judged anew without it, so that a gross error does
  not take its neighbours along.
"""

from __future__ import annotations

__all__ = ["control"]

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from ..models.sphere import EARTH_RADIUS_KM, unit_vectors
from . import flags
from .background import prior_predictive
from .errors import station_bias
from .instruments import instruments
from .table import COLUMNS, FURTHER, ObservationTable
from .thinning import thin


def control(
    table: ObservationTable, store: Any, config: Any, *, start: int, seed: int = 0,
    biases: dict[tuple[str, str], tuple[float, float]] | None = None,
) -> ObservationTable:  # fmt: skip
    r"""The same rows, and superobservations where asked for, with flags.

    Arguments:
        table: The rows; those with a flag are left alone.
        store: The trajectory.
        config: See `hpcinv.observations.config.Quality`.
        start: Frame of the store that is the table's frame 0.
        seed: Of the draw of withheld rows.
        biases: Gets the bias of each station (or instrument) and variable, and its deviation.

    Raises:
        BadInput: If bounds name an unknown variable, or a check needs statistics or a geography.
    """
    flag = table.flag.copy()
    free = lambda: np.flatnonzero(flag == 0)  # noqa: E731
    for name, (low, high) in config.bounds.items():
        if name not in table.variables:
            raise BadInput(
                f"unknown variable '{name}'", "quality: bounds", nearest(name, table.variables)
            )
        at = (table.channel == table.variables.index(name)) & (flag == 0)
        low, high = (-np.inf if low is None else low), (np.inf if high is None else high)
        flag[at & ~((table.value >= low) & (table.value <= high))] = flags.BOUNDS
    if config.duplicates:
        rows = free()
        flag[rows[_duplicates(table, rows)]] = flags.DUPLICATE
    departure = deviation = None
    checks = (config.background, config.buddy, config.station_bias)
    if any(c is not None for c in checks):
        mean, deviation = prior_predictive(table, store, start)
        departure = table.value - mean
        if config.station_bias is not None:
            of = instruments(table, config.instruments, "quality: station_bias")
            bias, told = station_bias(with_flags(table, flag), departure, config.station_bias, of)
            if biases is not None:
                biases.update(told)
            table, departure = replace(table, value=table.value - bias), departure - bias
    if config.background is not None:
        total = np.sqrt(deviation**2 + table.error**2)
        far = np.abs(departure) > config.background * total
        flag[(flag == 0) & far] = flags.BACKGROUND
    if config.buddy is not None:
        rows = free()
        flag[rows[_at_odds(table, rows, departure, deviation, config.buddy)]] = flags.BUDDY
    if config.withhold:
        rows = free()
        flag[rows[_withheld(table, rows, config.withhold, seed)]] = flags.WITHHELD
    table = with_flags(table, flag)
    if config.thin is not None:
        mean = prior_predictive(table, store, start)[0] if store.statistics is not None else None
        table = thin(table, store, config.thin, mean)
    return table


def with_flags(table: ObservationTable, flag: np.ndarray) -> ObservationTable:
    r"""The table with other flags, row by row."""
    columns = {c: getattr(table, c) for c in COLUMNS | FURTHER} | {"flag": flag}
    return replace(table, **columns)


def _groups(*columns: np.ndarray) -> np.ndarray:
    r"""The same integer for rows that agree in all columns."""
    out = np.zeros(len(columns[0]), np.int64)
    for c in columns:
        codes = np.unique(c, return_inverse=True)[1].reshape(-1)
        out = np.unique(out * (codes.max() + 1) + codes, return_inverse=True)[1].reshape(-1)
    return out


def _duplicates(table: ObservationTable, rows: np.ndarray) -> np.ndarray:
    r"""Which of some rows repeat another: of one variable, station, moment, place and level.

    Of equal values one stays. Where values differ by more than their errors allow, nobody knows
    which is right, and all go.
    """
    if not len(rows):
        return np.zeros(0, bool)
    level = np.where(np.isnan(table.level), -9e9, table.level)
    columns = (table.channel, table.station, table.time, table.lat, table.lon, level, table.point)
    key = _groups(*(np.nan_to_num(c[rows], nan=-9e9) if c.dtype.kind == "f" else c[rows]
                    for c in columns))  # fmt: skip
    order = np.argsort(key, kind="stable")
    first = np.ones(len(rows), bool)
    first[order[1:]] = key[order][1:] != key[order][:-1]
    n = int(key.max()) + 1
    lo, hi = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(lo, key, table.value[rows])
    np.maximum.at(hi, key, table.value[rows])
    torn = (hi - lo)[key] > 2 * table.error[rows]
    return ~first | torn


def _at_odds(table, rows, departure, deviation, config) -> np.ndarray:
    if np.isnan(table.lat[rows]).any():
        raise BadInput(
            "a buddy check needs latitudes and longitudes", "quality: buddy", "Write buddy: null."
        )
    total = np.sqrt(deviation[rows] ** 2 + table.error[rows] ** 2)
    d = departure[rows] / total
    share = (deviation[rows] / total) ** 2  # of the departure's variance that neighbours share
    where = EARTH_RADIUS_KM * unit_vectors(table.lat[rows], table.lon[rows])
    out = np.zeros(len(rows), bool)
    level = np.nan_to_num(table.level[rows], nan=-9e9)
    key = _groups(table.frame[rows], table.channel[rows], level)
    order = np.argsort(key, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        out[group] = _group_at_odds(d[group], share[group], where[group], config)
    return out


def _group_at_odds(d, share, where, config) -> np.ndarray:
    from scipy.spatial import cKDTree

    n = len(d)
    bad = np.zeros(n, bool)
    for _ in range(20):
        left = np.flatnonzero(~bad)
        if len(left) < 3:
            break
        k = min(config.neighbours, len(left) - 1)
        tree = cKDTree(where[left])
        distance, index = tree.query(where[left], k + 1, distance_upper_bound=3 * config.length_km)
        index = np.where(np.isinf(distance), 0, index)
        near = ~np.isinf(distance) & (index != np.arange(len(left))[:, None])
        score = _misses(d[left], share[left], where[left], index, near, config.length_km)
        over = np.abs(score) > config.limit
        if not over.any():
            break
        # Only the worst of each neighbourhood goes in this round.
        rival = np.where(near, np.abs(score)[index], 0.0).max(1)
        worst = over & (np.abs(score) >= rival)
        bad[left[worst]] = True
    return bad


def _misses(d, share, where, index, near, length) -> np.ndarray:
    r"""How far each departure is from its neighbours' prediction, in the prediction's deviations.

    Departures have variance one; two of them correlate by :math:`\sqrt{s_i s_j} e^{-r^2/2L^2}`.
    """
    root = np.sqrt(share)
    b = where[index]
    r2 = ((b[:, :, None] - b[:, None]) ** 2).sum(-1)
    S = np.exp(-r2 / (2 * length**2)) * root[index][:, :, None] * root[index][:, None]
    S = np.where(near[:, :, None] & near[:, None], S, 0.0)
    i = np.arange(S.shape[1])
    S[:, i, i] = 1.0
    c = (
        np.exp(-((b - where[:, None]) ** 2).sum(-1) / (2 * length**2))
        * root[index]
        * root[:, None]
    )
    c = np.where(near, c, 0.0)
    w = np.linalg.solve(S, c[..., None])[..., 0]
    predicted = (w * np.where(near, d[index], 0.0)).sum(1)
    left = np.maximum(1 - (w * c).sum(1), 0.05)
    # Without neighbours there is no verdict.
    return np.where(near.any(1), (d - predicted) / np.sqrt(left), 0.0)


def _withheld(table, rows, share: float, seed: int) -> np.ndarray:
    r"""A share of the stations, or of the places of each frame where stations have no name."""
    from ..diffusion.noise import generator

    if not len(rows):
        return np.zeros(0, bool)
    named = table.station[rows] != ""
    place = np.where(named, -1, table.frame[rows] * (table.point.max() + 2) + table.point[rows])
    key = _groups(table.station[rows], place)
    n = int(key.max()) + 1
    chosen = generator(seed, "withheld observations", n).permutation(n)[: round(share * n)]
    return np.isin(key, chosen)
