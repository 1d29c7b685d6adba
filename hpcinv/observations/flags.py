r"""The reasons why an observation is not used, as integers: what `EffectiveQC` holds."""

from __future__ import annotations

__all__ = ["REASONS", "counts", "malformed"]

from typing import Any

import numpy as np

REASONS = {
    0: "used",
    1: "withheld for verification",
    2: "thinned: another one is nearer to the cell's centre",
    3: "merged into a superobservation",
    10: "outside the grid",
    11: "outside the domain (mask)",
    12: "too far in time from any frame",
    13: "out of bounds",
    14: "duplicate",
    15: "far from the background",
    16: "at odds with its neighbours",
    17: "flagged in its source",
    18: "no place on Earth: latitude or longitude missing or out of range",
    19: "no time",
    20: "no value",
    21: "no positive error σ",
}
USED, WITHHELD, THINNED, MERGED = 0, 1, 2, 3
OUTSIDE, MASKED, LATE, BOUNDS, DUPLICATE, BACKGROUND, BUDDY, SOURCE = range(10, 18)
PLACE, TIME, VALUE, ERROR = range(18, 22)


def malformed(
    value: np.ndarray, error: np.ndarray, lat: np.ndarray, lon: np.ndarray, time: np.ndarray
) -> np.ndarray:
    r"""The flag of rows that lack something without which a row says nothing; 0 of the others.

    A row that lacks several things gets the first of: value, place, time, error.
    """
    with np.errstate(invalid="ignore"):
        return np.select(
            [
                ~np.isfinite(value),
                ~((np.abs(lat) <= 90) & (np.abs(lon) <= 360)),
                ~np.isfinite(time),
                ~(np.isfinite(error) & (error > 0)),
            ],
            [VALUE, PLACE, TIME, ERROR],
            USED,
        ).astype(np.int32)


def counts(table: Any) -> dict[str, dict[str, int]]:
    r"""How many rows of each variable ended with which flag: `{variable: {reason: rows}}`."""
    out: dict[str, dict[str, int]] = {}
    for c, name in enumerate(table.variables):
        flags, n = np.unique(table.flag[table.channel == c], return_counts=True)
        if len(flags):
            out[name] = {REASONS[int(f)]: int(k) for f, k in zip(flags, n, strict=True)}
    return out
