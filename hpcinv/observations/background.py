r"""What the prior predicts of each row: mean and standard deviation, in the row's units.

The prior here is the climatology of the store's statistics, which knows the phase of the year and
nothing of the analysed period. Between points and levels, states are taken as fully correlated,
so that the deviation of a combination is never too small.
"""

from __future__ import annotations

__all__ = ["Predictive", "prior_predictive"]

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
    return Predictive(table, store, start).prior(start)


class Predictive:
    r"""The same of a table beside any frames of its trajectory: its operator is made once.

    Arguments:
        table: The rows. Those that interpolate in time look at the clock beside `start`.
        store: The trajectory.
        start: Its frame that is the table's frame 0.
        length: Frames that are looked at, see `Operator`.
    """

    def __init__(
        self, table: ObservationTable, store: Any, start: int, length: int | None = None
    ) -> None:
        self.store, self._rows = store, len(table)
        self._placed = np.flatnonzero((table.point >= 0) & (table.frame >= 0))
        self._operator = Operator(table.select(self._placed), store, start, length)
        frames = np.unique(self._operator.table.frame)
        self._pieces = [self._operator.piece(self._operator.rows([int(f)])) for f in frames]

    def prior(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean and deviation of the rows, whose frame 0 is this one of the store."""
        if self.store.statistics is None:
            raise BadInput(
                "no statistics of the state to check observations against",
                "quality: background",
                "Import the data with 'statistics', or write background: null.",
            )
        mean, std = np.full(self._rows, np.nan), np.full(self._rows, np.nan)
        for piece in self._pieces:
            m, s = self.store.statistics.at(start + piece.frame, piece.channel, piece.point)
            u = piece.linear(m)
            du = np.abs(piece.matrix) @ s
            at = self._placed[piece.rows]
            mean[at] = piece.head_of(u)
            std[at] = _deviation(piece, u, du)
        return mean, std

    def seen(self, start: int) -> np.ndarray:
        r"""What the rows see of the trajectory itself from this frame on; NaN without a place."""
        out = np.full(self._rows, np.nan)
        for piece in self._pieces:
            x = self._operator.support(
                piece, lambda f: self.store.read(start + f, start + f + 1)[0]
            )
            out[self._placed[piece.rows]] = piece(x)
        return out


def _deviation(piece: Any, u: np.ndarray, du: np.ndarray) -> np.ndarray:
    r"""Deviation of each row, of components u with deviations du: over ± one of all of them."""
    lo, hi = piece.head_of(u - du), piece.head_of(u + du)
    width = np.diff(piece.of)
    squares = np.add.reduceat(du**2, piece.of[:-1])
    # A speed may fall and rise again within a deviation: its components' own is the safe one.
    return np.where(width > 1, np.sqrt(squares), np.abs(hi - lo) / 2) if len(u) else du
