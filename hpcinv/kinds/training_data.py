r"""The samples that `train` and `encode` draw from a store: windows as they are, or mixed."""

from __future__ import annotations

__all__ = ["archive", "mixed"]

from typing import TYPE_CHECKING

import numpy as np

from ..io.store import TrajectoryStore
from ..training.config import MixingConfig

if TYPE_CHECKING:
    from ..training.data import MixedDataset, WindowDataset


class Anomalies:
    r"""A store whose standardised states have the spread of a year that was not trained on.

    Training anomalies are measured from the mean of their own years and are too small by the
    statistics' `shrinkage`; a prior learnt from them as they are would be over-confident.
    """

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def standardised(self, start: int, stop: int) -> np.ndarray:
        s = self._store.statistics
        x = self._store.standardised(start, stop)
        if s is None:
            return x
        k = s.shrinkage[s.phase(range(start, stop))].astype(x.dtype)
        return x / k.reshape(-1, *[1] * (x.ndim - 1))


def archive(store: TrajectoryStore, window: int, within: tuple[int, int] | None) -> WindowDataset:
    r"""All windows of a store's training frames."""
    from ..training.data import WindowDataset

    return WindowDataset(Anomalies(store), window, within)


def mixed(windows: WindowDataset, fields: MixingConfig, seed: int, size: int) -> MixedDataset:
    r"""Endless localised mixtures of them.

    Arguments:
        size: Draws called an epoch.
    """
    from ..training.augmentation import LocalisedMixing
    from ..training.data import MixedDataset

    lat, lon = latitude_longitude(windows.store)
    mixing = LocalisedMixing(
        windows.array(),
        lat,
        lon,
        length_km=fields.length_km,
        terms=fields.terms,
        bank=fields.bank,
        seed=seed,
        mask=windows.store.mask,
    )
    return MixedDataset(mixing, windows, size)


def latitude_longitude(store: TrajectoryStore) -> tuple[np.ndarray, np.ndarray]:
    r"""Latitudes and longitudes of a store's grid.

    Raises:
        BadInput: If the grid has none.
    """
    from ..errors import BadInput

    found = {store.coord_attrs[k].get("standard_name"): v for k, v in store.coords.items()}
    try:
        return found["latitude"], found["longitude"]
    except KeyError:
        raise BadInput(
            "localised mixing needs latitude and longitude",
            store.folder,
            f"The store's axes are {list(store.coords)}: leave out 'augmentation'.",
        ) from None
