r"""What the prior predicts of each row: mean and standard deviation, in the row's units.

The prior here is the climatology of the store's statistics, which knows the phase of the year and
nothing of the analysed period. Between points and levels, states are taken as fully correlated,
so that the deviation of a combination is never too small.
"""

from __future__ import annotations

__all__ = ["prior_predictive"]

from typing import Any

import numpy as np

from ..errors import BadInput
from .operators import Operator
from .table import ObservationTable


def prior_predictive(
    table: ObservationTable, store: Any, start: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and standard deviation of every row, NaN where a row has no place on the grid.

    Arguments:
        table: The rows.
        store: The trajectory, with statistics.
        start: Its frame that is the table's frame 0.

    Raises:
        BadInput: If the store has no statistics.
    """
    if store.statistics is None:
        raise BadInput(
            "no statistics of the state to check observations against",
            "quality: background",
            "Import the data with 'statistics', or write background: null.",
        )
    mean, std = np.full(len(table), np.nan), np.full(len(table), np.nan)
    placed = np.flatnonzero((table.point >= 0) & (table.frame >= 0))
    if not len(placed):
        return mean, std
    operator = Operator(table.select(placed), store, start)
    for f in np.unique(operator.table.frame):
        piece = operator.piece(operator.rows([int(f)]))
        m, s = store.statistics.at(start + piece.frame, piece.channel, piece.point)
        u = piece.linear(m)
        du = np.abs(piece.matrix) @ s
        at = placed[piece.rows]
        mean[at] = piece.head_of(u)
        std[at] = _deviation(piece, u, du)
    return mean, std


def _deviation(piece: Any, u: np.ndarray, du: np.ndarray) -> np.ndarray:
    r"""Deviation of each row, of components u with deviations du: over ± one of all of them."""
    lo, hi = piece.head_of(u - du), piece.head_of(u + du)
    width = np.diff(piece.of)
    squares = np.add.reduceat(du**2, piece.of[:-1])
    # A speed may fall and rise again within a deviation: its components' own is the safe one.
    return np.where(width > 1, np.sqrt(squares), np.abs(hi - lo) / 2) if len(u) else du
