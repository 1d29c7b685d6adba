r"""Which instrument made each row: its station, or a group of stations named by a pattern."""

from __future__ import annotations

__all__ = ["instruments"]

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..errors import BadInput, nearest

NAME_THEM = "Name the column that tells it, under observing: columns: {station: ...}."


def instruments(table: Any, patterns: Mapping[str, str], where: str) -> np.ndarray:
    r"""The name of each row's instrument, empty where it has none, with shape :math:`(D)`.

    Arguments:
        table: The rows.
        patterns: Instruments by the pattern that the names of their stations follow, as those of
            files (`ship-*`); without any, each station is an instrument.
        where: What to name in messages.

    Raises:
        BadInput: If no row has a station's name, or a pattern follows none or those of another.
    """
    stations, of = np.unique(table.station, return_inverse=True)
    if len(table) and not any(stations != ""):
        raise BadInput("no row says which station or instrument it is from", where, NAME_THEM)
    if not patterns:
        return table.station
    name = np.full(len(stations), "", dtype=object)
    for instrument, pattern in patterns.items():
        if not instrument or "," in instrument:
            raise BadInput(f"an instrument called '{instrument}'", where, "Give it another name.")
        at = np.array([fnmatchcase(s, pattern) for s in stations], bool)
        if not at.any():
            raise BadInput(
                f"no station's name is like '{pattern}'", f"{where}: {instrument}",
                nearest(pattern, stations),
            )  # fmt: skip
        if (name[at] != "").any():
            both = np.flatnonzero(at & (name != ""))[0]
            raise BadInput(
                f"station '{stations[both]}' is of '{name[both]}' and of '{instrument}'", where,
                "Make the patterns exclude each other.",
            )  # fmt: skip
        name[at] = instrument
    return name.astype(str)[of.reshape(-1)]
